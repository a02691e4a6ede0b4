package cnitest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/podweft/podweft/internal/netns"
	"github.com/podweft/podweft/internal/nl"
)

// pod is a container to be attached.
type pod struct {
	id string
	ns *os.File
}

func (r *runner) pod(id string) (*pod, error) {
	ns, err := netns.New()
	if err != nil {
		return nil, err
	}
	p := &pod{id: "cnitest-" + id, ns: ns}
	r.pods = append(r.pods, p)
	return p, nil
}

func (p *pod) close() { p.ns.Close() }

func (p *pod) netns() string { return netns.Path(p.ns) }

func (p *pod) runtime() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: p.id, NetNS: p.netns(), IfName: "eth0", Args: [][2]string{{"IgnoreUnknown", "1"}}}
}

// inside calls fn with a socket in the pod.
func (p *pod) inside(fn func(*nl.Conn) error) error {
	conn, err := nl.Dial(p.netns())
	if err != nil {
		return err
	}
	defer conn.Close()
	return fn(conn)
}

// attached reports whether the pod has its interface.
func (p *pod) attached() (there bool, err error) {
	err = p.inside(func(c *nl.Conn) error {
		_, err := c.Link("eth0")
		there = err == nil
		if errors.Is(err, nl.ErrNoLink) {
			return nil
		}
		return err
	})
	return there, err
}

// answer is how a plugin ended.
type answer struct {
	code   int
	stdout []byte
	stderr string
}

// call runs the first plugin by hand. Variables with an empty value are left out.
func (r *runner) call(ctx context.Context, stdin []byte, vars map[string]string) (answer, error) {
	kind := r.list.Plugins[0].Network.Type
	cmd := exec.CommandContext(ctx, filepath.Join(r.cfg.Dir, kind))
	env := r.cfg.Environ
	if env == nil {
		env = os.Environ()
	}
	env = slices.DeleteFunc(slices.Clone(env), func(kv string) bool { return strings.HasPrefix(kv, "CNI_") })
	for k, v := range vars {
		if v != "" {
			env = append(env, k+"="+v)
		}
	}
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, bytes.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return answer{}, err
	}
	return answer{cmd.ProcessState.ExitCode(), stdout.Bytes(), stderr.String()}, nil
}

// vars are the variables for a call about the pod.
func (r *runner) vars(command string, p *pod) map[string]string {
	v := map[string]string{"CNI_COMMAND": command, "CNI_PATH": r.cfg.Dir}
	if p != nil {
		v["CNI_CONTAINERID"], v["CNI_NETNS"], v["CNI_IFNAME"] = p.id, p.netns(), "eth0"
	}
	return v
}

// failure is an error as the specification has it.
type failure struct {
	CNIVersion string `json:"cniVersion"`
	Code       *uint  `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details"`
}

// failed reads the error of a call that must fail.
func (a answer) failed() (failure, error) {
	var f failure
	if a.code == 0 {
		return f, fmt.Errorf("it succeeded: %s", short(a.stdout))
	}
	d := json.NewDecoder(bytes.NewReader(a.stdout))
	if err := d.Decode(&f); err != nil {
		return f, fmt.Errorf("standard output is no error in JSON: %q; standard error: %q", short(a.stdout), short([]byte(a.stderr)))
	}
	if d.More() {
		return f, fmt.Errorf("standard output has more than one object: %q", short(a.stdout))
	}
	if f.Code == nil || f.Msg == "" {
		return f, fmt.Errorf("the error lacks code or msg: %s", short(a.stdout))
	}
	return f, nil
}

// failedWith reports if a call did not fail with the code, or its message does not say all of words.
func (a answer) failedWith(code uint, words ...string) error {
	f, err := a.failed()
	if err != nil {
		return err
	}
	if *f.Code != code {
		return fmt.Errorf("code %d, not %d: %s", *f.Code, code, f.Msg)
	}
	for _, w := range words {
		if !strings.Contains(f.Msg+f.Details, w) {
			return fmt.Errorf("the error does not name %s: %s", w, f.Msg)
		}
	}
	return nil
}

// object reports if a call that succeeded did not answer with one JSON object.
func (a answer) object() error {
	if a.code != 0 {
		return errors.New(short(a.stdout))
	}
	return oneObject(a.stdout)
}

func oneObject(stdout []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(stdout, &fields); err != nil {
		return fmt.Errorf("standard output is not one JSON object and nothing else: %w: it begins with %q", err, stdout[:min(len(stdout), 60)])
	}
	return nil
}

// short is what fits into a report, JSON on one line.
func short(b []byte) string {
	var line bytes.Buffer
	if json.Compact(&line, b) == nil {
		b = line.Bytes()
	}
	if len(b) > 300 {
		return string(b[:300]) + "..."
	}
	return string(b)
}
