package cniplugin

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/word"
)

// Call is one call of a plugin, as section 2 of the CNI specification lays it down.
type Call struct {
	// Type is what the plugin was called as, the name of its file. "flannel", "portmap" and "loopback" do what the plugins
	// of these names do; every other name attaches pods as its configuration says.
	Type string
	// Environ are the variables of the environment, "CNI_COMMAND=ADD"; a program of another type is started with all of
	// them.
	Environ []string
	// Stdin is read to its end: the network's configuration.
	Stdin io.Reader
	// Stdout gets the result or the error, and nothing else.
	Stdout io.Writer
	// Stderr is what a program of another type writes to. Nil discards it.
	Stderr io.Writer
}

// parameters are the variables of the environment that a call is about.
type parameters struct {
	command   string
	container string
	netns     string
	ifname    string
	path      string
	args      map[string]string
}

const (
	maxContainer = 115 // what fits in the name of a record's file: see package local
	maxNetwork   = 64  // and of a table, and a link's alias
)

// parameters reads them and names everything that is missing or malformed at once.
func (c Call) parameters() (parameters, error) {
	env := map[string]string{}
	for _, kv := range c.Environ {
		if k, v, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(k, "CNI_") {
			env[k] = v
		}
	}
	p := parameters{
		command: env["CNI_COMMAND"], container: env["CNI_CONTAINERID"], netns: env["CNI_NETNS"],
		ifname: env["CNI_IFNAME"], path: env["CNI_PATH"],
	}
	var wrong []string
	bad := func(variable, problem string) { wrong = append(wrong, variable+" "+problem) }
	one := false // it is about one attachment
	switch p.command {
	case "ADD", "CHECK":
		one = true
		if p.netns == "" {
			bad("CNI_NETNS", "is missing")
		}
	case "DEL":
		one = true
	case "GC", "STATUS", "VERSION":
	case "":
		bad("CNI_COMMAND", "is missing (this program is a CNI plugin, which a container runtime calls)")
	default:
		bad("CNI_COMMAND", fmt.Sprintf("is %q, and not ADD, DEL, CHECK, GC, STATUS or VERSION", p.command))
	}
	if one {
		switch {
		case p.container == "":
			bad("CNI_CONTAINERID", "is missing")
		case !word.Valid(p.container, maxContainer):
			bad("CNI_CONTAINERID", fmt.Sprintf("%q is not up to %d letters, digits, dots, dashes and underscores, a letter or digit first", p.container, maxContainer))
		}
		switch {
		case p.ifname == "":
			bad("CNI_IFNAME", "is missing")
		case !isLink(p.ifname):
			bad("CNI_IFNAME", fmt.Sprintf("%q is not a name for a link", p.ifname))
		}
		if p.command == "ADD" {
			p.args = arguments(env["CNI_ARGS"], bad)
		}
	}
	if len(wrong) > 0 {
		return p, &Error{Code: CodeEnvironment, Msg: "environment: " + strings.Join(wrong, "; ")}
	}
	return p, nil
}

// isLink reports whether s can be a link's name.
func isLink(s string) bool {
	bad := func(r rune) bool { return strings.ContainsRune("/:%", r) || unicode.IsSpace(r) || !unicode.IsPrint(r) }
	return s != "" && len(s) <= 15 && s != "." && s != ".." && utf8.ValidString(s) && !strings.ContainsFunc(s, bad)
}

// known are the arguments that this plugin understands. By the conventions of CNI any other is an error, unless
// IgnoreUnknown says that it is not meant for us alone, as every orchestrator does.
var known = []string{"IgnoreUnknown", "IP", "MAC", podNamespace, podName, podUID, podContainer}

// What Kubernetes and containerd say of a pod.
const (
	podNamespace = "K8S_POD_NAMESPACE"
	podName      = "K8S_POD_NAME"
	podUID       = "K8S_POD_UID"
	podContainer = "K8S_POD_INFRA_CONTAINER_ID"
)

func arguments(text string, bad func(variable, problem string)) map[string]string {
	args := map[string]string{}
	var unknown []string
	for kv := range strings.SplitSeq(text, ";") {
		if kv == "" {
			continue
		}
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			bad("CNI_ARGS", fmt.Sprintf("has %q, which is no KEY=VALUE", kv))
			continue
		}
		args[k] = v
		if !slices.Contains(known, k) {
			unknown = append(unknown, k)
		}
	}
	if ignore := strings.ToLower(args["IgnoreUnknown"]); len(unknown) > 0 && ignore != "1" && ignore != "true" {
		bad("CNI_ARGS", fmt.Sprintf("has %s, which this plugin does not know: add IgnoreUnknown=1", strings.Join(unknown, ", ")))
	}
	return args
}

// answer writes what belongs on standard output.
func (c Call) answer(out []byte) error {
	if _, err := c.Stdout.Write(out); err != nil {
		return fail(CodeIO, "the answer cannot be written to standard output", err)
	}
	return nil
}

// SystemCall is the call that this process was started for. Its Stdin fails after half a minute in which it does not end.
func SystemCall(name string) Call {
	stdin := &patient{os.Stdin, time.Now().Add(stdinPatience)}
	return Call{Type: name, Environ: os.Environ(), Stdin: stdin, Stdout: lastingStdout(), Stderr: os.Stderr}
}

// lastingStdout is standard output by another descriptor: whoever writes to descriptor 1 when nobody reads it any more is ended by
// package os (its documentation of SIGPIPE is in os/signal), and could undo nothing.
func lastingStdout() *os.File {
	fd, err := unix.FcntlInt(os.Stdout.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.Stdout
	}
	return os.NewFile(uintptr(fd), os.Stdout.Name())
}

// stdinPatience is how long a runtime may take to write a configuration, which is there when the plugin starts as a rule.
const stdinPatience = 30 * time.Second

// patient is a file that is read until some time. Deadlines of package os are not for pipes that somebody else has made.
type patient struct {
	file  *os.File
	until time.Time
}

// Read implements io.Reader.
func (p *patient) Read(b []byte) (int, error) {
	for {
		left := max(0, time.Until(p.until))
		ready := []unix.PollFd{{Fd: int32(p.file.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, int(left.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, os.NewSyscallError("poll", err)
		case n == 0:
			return 0, os.ErrDeadlineExceeded
		default:
			return p.file.Read(b)
		}
	}
}
