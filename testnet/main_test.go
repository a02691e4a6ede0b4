package testnet_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/testnet"
)

// programVar makes this test binary an ordinary program, which the tests run, watch and kill.
const programVar = "TESTNET_PROGRAM"

const stateVar = "PODWEFT_TESTNET"

func TestMain(m *testing.M) {
	switch os.Getenv(programVar) {
	case "report":
		reportProgram()
	case "wait":
		waitProgram()
	case "network":
		networkProgram()
	case "stranger":
		strangerProgram()
	case "leaky":
		testnet.Main(leaky{})
	case "cage":
		cageProgram()
	default:
		testnet.Main(m)
	}
}

// user is somebody to run a program as.
type user struct {
	name string
	attr *syscall.SysProcAttr
}

// users are root and an ordinary user. Where the tests run as an ordinary user themselves, root is that of their namespace
// and the ordinary user is one in another namespace, since no second uid can be had.
func users() []user {
	ordinary := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if uids, _ := os.ReadFile("/proc/self/uid_map"); len(strings.Fields(string(uids))) != 3 || strings.Fields(string(uids))[2] == "1" {
		ordinary = userNamespace(1000)
	}
	return []user{{"as root", nil}, {"as an ordinary user", ordinary}}
}

func userNamespace(as int) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: as, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: as, HostID: os.Getegid(), Size: 1}},
	}
}

// program is this test binary as a program; by = nil is the user who runs the tests.
func program(t *testing.T, by *syscall.SysProcAttr, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), stateVar+"=", "PODWEFT_REQUIRE_KERNEL=", programVar+"="+name,
		"GORACE=atexit_sleep_ms=0", // the default is a second
		"GOCOVERDIR="+publicDir(t)) // go test -cover sets one that others cannot enter
	if by != nil {
		attr := *by
		cmd.SysProcAttr = &attr
	}
	return cmd
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// reportProgram enters and tells what it finds.
func reportProgram() {
	exitOn(testnet.Enter())
	exitOn(testnet.Enter()) // does nothing here
	dir, err := os.Getwd()
	exitOn(err)
	input, err := io.ReadAll(os.Stdin)
	exitOn(err)
	links, err := filepath.Glob("/proc/sys/net/ipv4/conf/*")
	exitOn(err)
	for i := range links {
		links[i] = filepath.Base(links[i])
	}
	fmt.Printf("args %q\ndir %s\nvariable %s\ninput %q\nuid %d\npid %d\nlinks %v\nsysctls %v\n",
		os.Args[1:], dir, os.Getenv("VARIABLE"), input, os.Getuid(), os.Getpid(), links, testnet.Sysctls())
	fmt.Fprintln(os.Stderr, "a complaint")
	os.Exit(7)
}

// waitProgram runs another program in a node and counts the signals that it gets until it gets no more.
func waitProgram() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGUSR1)
	exitOn(testnet.Enter())
	n, err := testnet.BuildNode("n")
	exitOn(err)
	exitOn(n.Command(context.Background(), "sleep", "600").Start())
	fmt.Println("ready")
	wait := 10 * time.Second // for who sends the first
	for {
		select {
		case sig := <-signals:
			fmt.Println("got", sig)
			wait = 200 * time.Millisecond
		case <-time.After(wait):
			if len(os.Args) > 1 && os.Args[1] == "for ever" {
				continue
			}
			os.Exit(3)
		}
	}
}

// networkProgram makes itself a network and changes what it can of it.
func networkProgram() {
	exitOn(testnet.Enter())
	f, err := testnet.Build(testnet.FabricConfig{Nodes: 2, Outside: true})
	exitOn(err)
	for _, n := range f.Nodes {
		exitOn(n.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }))
		_, err := n.Ping(context.Background(), f.Outside.V6)
		exitOn(err)
	}
	fmt.Println("pinged")
}

// strangerProgram uses the package without having entered.
func strangerProgram() {
	n := &testnet.Node{Name: "n"}
	exitOn(n.Command(context.Background(), "true").Run())
}

// leaky is a test binary whose tests succeed and leave something.
type leaky struct{}

func (leaky) Run() int {
	_, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
	exitOn(err)
	go sleepForEver()
	return 0
}

func sleepForEver() { select {} }

// cageProgram makes its surroundings worse, as its arguments up to "--" say, takes the one privilege from root with which it
// needs no user namespace, and becomes the program that the rest of the arguments name.
func cageProgram() {
	runtime.LockOSThread()
	args := os.Args[1:]
	for ; args[0] != "--"; args = args[1:] {
		what, value, _ := strings.Cut(args[0], " ")
		switch what {
		case "sysctl":
			key, v, _ := strings.Cut(value, "=")
			exitOn(os.WriteFile("/proc/sys/"+strings.ReplaceAll(key, ".", "/"), []byte(v), 0))
		case "read-only":
			exitOn(unix.Mount(value, value, "", unix.MS_BIND|unix.MS_REC, ""))
			// The other flags are locked here, and must be given again (mount_namespaces(7)).
			const locked = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RELATIME
			exitOn(unix.Mount("", value, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|locked, ""))
		case "chroot":
			exitOn(unix.Mount("/", value, "", unix.MS_BIND|unix.MS_REC, ""))
			exitOn(unix.Chroot(value))
			exitOn(unix.Chdir("/"))
		}
	}
	exitOn(unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_ADMIN, 0, 0, 0))
	os.Setenv(programVar, args[1])
	exitOn(unix.Exec("/proc/self/exe", append([]string{"caged"}, args[2:]...), os.Environ()))
}

// caged is a program in a cage: in a user namespace of its own, so that no setting of the host is touched.
func caged(t *testing.T, worse []string, name string, args ...string) *exec.Cmd {
	t.Helper()
	attr := userNamespace(0)
	attr.Cloneflags |= unix.CLONE_NEWNS | unix.CLONE_NEWNET
	all := append(append(worse, "--", name), args...)
	return program(t, attr, "cage", all...)
}

func output(t *testing.T, cmd *exec.Cmd) (out string, code int) {
	t.Helper()
	raw, err := cmd.CombinedOutput()
	if err != nil {
		require.IsType(t, &exec.ExitError{}, err)
	}
	return string(raw), cmd.ProcessState.ExitCode()
}

// publicDir is a directory in which everybody may write.
func publicDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o777))
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o777))
	return dir
}
