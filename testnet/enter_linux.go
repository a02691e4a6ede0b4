package testnet

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stateVar tells a process, and its children, what Enter came to. It holds one of
//
//	entering           a child of Enter that has yet to settle; it reports through descriptor 3
//	inside mnt:[4026]  inside, if this is the process's own mount namespace; a process elsewhere must enter itself
//	refused REASON     Main runs the tests where they are, and Require has the reason
const stateVar = "PODWEFT_TESTNET"

const (
	stateEntering = "entering"
	stateInside   = "inside "
	stateRefused  = "refused "
)

// requireVar turns a skip into a failure, where namespaces are promised.
const requireVar = "PODWEFT_REQUIRE_KERNEL"

const reportFD = 3

// Main is for TestMain. It re-executes the test binary as [Enter] does, runs m there and exits with its code; a test binary
// that leaves links, sockets, goroutines or descriptors behind at its very end exits with 1. Where the machine refuses, it
// runs m where it is, without examples since those cannot skip themselves, and [Require] skips. It never returns.
//
// Everything of `go test` works inside: -run, -list, -json, -race, -count, -timeout, coverage, profiles, fuzzing, the cache.
// What does not is the host's network: a test inside reaches no other machine and no server of the host.
func Main(m interface{ Run() int }) {
	if refusal := Enter(); refusal != nil {
		setState(stateRefused + refusal.Error())
		skipExamples()
		os.Exit(m.Run())
	}
	label(mainOwner)
	before := takeCensus()
	code := m.Run()
	label(nobody)
	if code == 0 { // tests that failed may well leave something
		code = before.verdict()
	}
	os.Exit(code)
}

func skipExamples() {
	if f := flag.Lookup("test.skip"); f != nil && os.Getenv(requireVar) != "1" {
		_ = f.Value.Set("^Example") // a -skip on the command line is parsed later, and wins
	}
}

// Enter gives the program a network of its own, empty but for a loopback link: call it first thing in main. It re-executes
// the program in new user, network, mount and PID namespaces (as root: no user namespace), with the same arguments,
// environment, directory and standard streams, and returns nil there, where the process may do to its network whatever root
// may. The calling process itself waits, passes signals on and exits with the program's code (128 plus the signal's number
// if a signal ended it): there Enter does not return. When it ends, by kill -9 too, nothing of the program is left. (But
// for processes that the program has started, where a container hides parts of /proc and there is no PID namespace.)
//
// In a process that is inside already Enter does nothing. Where the machine refuses, it returns a [*RefusedError] and has
// changed nothing.
func Enter() error {
	runCommand()
	switch {
	case os.Getenv(stateVar) == stateEntering:
		arrive()
		return nil
	case inside():
		return nil
	}
	return leave()
}

// inside reports whether Enter has succeeded in this process or in one that it descends from and shares namespaces with.
func inside() bool {
	ns, ok := strings.CutPrefix(os.Getenv(stateVar), stateInside)
	return ok && ns == mountNamespace()
}

func setState(state string) {
	_ = os.Setenv(stateVar, state) // fails for names and values that cannot be, which these are not
}

func mountNamespace() string {
	ns, _ := os.Readlink("/proc/self/ns/mnt")
	return ns
}

// Require skips the test where the machine refuses namespaces, with the reason; with PODWEFT_REQUIRE_KERNEL=1 in the
// environment it fails it. [NewNode] and [NewFabric] call it.
func Require(t TB) {
	t.Helper()
	if inside() {
		return
	}
	reason, refused := strings.CutPrefix(os.Getenv(stateVar), stateRefused)
	switch {
	case !refused:
		t.Fatalf("testnet: this test needs its own network: add func TestMain(m *testing.M) { testnet.Main(m) }")
	case os.Getenv(requireVar) == "1":
		t.Fatalf("testnet: %s", reason)
	default:
		t.Skipf("testnet: %s", reason)
	}
}

// way is one way of entering.
type way struct {
	user bool // in a user namespace
	pid  bool // in a PID namespace, with a /proc of its own
}

// ways lists what to try, best first. Root without CAP_SYS_ADMIN (in a container, mostly) is an ordinary user here. A /proc
// cannot be mounted where parts of the old one are hidden, as in containers (mount_too_revealing in fs/namespace.c), and a
// PID namespace is of no use without; a kill -9 then spares what the program itself has started.
func ways(root bool) []way {
	ordinary := []way{{user: true, pid: true}, {user: true}}
	if root {
		return append([]way{{pid: true}}, ordinary...)
	}
	return ordinary
}

// leave runs the program inside and exits with its code; it returns only if that was refused.
func leave() error {
	// The child is killed when the thread that started it ends (PR_SET_PDEATHSIG): this one must not end before us.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	var refused *stepError
	for _, w := range ways(os.Geteuid() == 0) {
		var child *exec.Cmd
		if child, refused = w.start(); refused == nil {
			// Not os.Exit, which under -race sleeps for a second, as the child does already.
			unix.Exit(accompany(child, signals))
		}
	}
	signal.Stop(signals)
	return thisMachine().explain(refused)
}

// start runs the program inside and waits until it has settled there.
func (w way) start() (*exec.Cmd, *stepError) {
	report, childs, err := os.Pipe()
	if err != nil {
		return nil, &stepError{step: stepStart, err: err}
	}
	defer report.Close()

	child := exec.Command("/proc/self/exe")
	child.Args = os.Args
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.Env = append(os.Environ(), stateVar+"="+stateEntering)
	child.ExtraFiles = []*os.File{childs} // reportFD
	child.SysProcAttr = w.attributes()
	err = child.Start()
	childs.Close()
	if err != nil {
		return nil, &stepError{step: stepStart, err: err}
	}
	if refused := readReport(report); refused != nil {
		_ = child.Wait() // its report says more than its exit code
		return nil, refused
	}
	return child, nil
}

func (w way) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if w.pid {
		attr.Cloneflags |= unix.CLONE_NEWPID
	}
	if w.user {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// arrive makes itself at home in the new namespaces and reports how that went to the process that waits in start.
func arrive() {
	report := os.NewFile(reportFD, "report")
	refused := settle()
	// Should the parent be gone already, the write fails, and nobody is left to end us.
	if writeReport(report, refused) != nil || refused != nil {
		os.Exit(1)
	}
	report.Close()
	setState(stateInside + mountNamespace())
}

// settle is also the probe: AppArmor lets a process create a user namespace and then forbids it everything inside.
func settle() *stepError {
	if os.Getpid() == 1 {
		// Our mounts are not to appear on the host; the host's unmounts are to reach us, or we would pin its disks.
		if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return &stepError{step: stepMount, err: err}
		}
		if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return &stepError{step: stepProc, err: err}
		}
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return &stepError{step: stepNetlink, err: err}
	}
	defer h.Close()
	if err := h.LinkSetUp(linkAt(loopback)); err != nil {
		return &stepError{step: stepNetlink, err: err}
	}
	return nil
}

// A report is one line: "inside", or the step that was refused and its errno.
const reportInside = "inside"

func writeReport(to io.Writer, refused *stepError) error {
	line := reportInside
	if refused != nil {
		var errno unix.Errno
		errors.As(refused.err, &errno)
		line = fmt.Sprintf("%s %d", refused.step, errno)
	}
	_, err := fmt.Fprintln(to, line)
	return err
}

// readReport returns what was refused. No report is no refusal: a signal, say, ended the child before it came to write one.
func readReport(from io.Reader) *stepError {
	line, _ := bufio.NewReader(from).ReadString('\n')
	var step string
	var errno int
	if n, _ := fmt.Sscanf(line, "%s %d", &step, &errno); n != 2 {
		return nil
	}
	return &stepError{step: step, err: unix.Errno(errno)}
}
