package testnet_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/testnet"
)

func TestEnterPassesEverythingThrough(t *testing.T) {
	testnet.Require(t)
	for _, u := range users() {
		t.Run(u.name, func(t *testing.T) {
			cmd := program(t, u.attr, "report", "one", "two words")
			cmd.Env = append(cmd.Env, "VARIABLE=value")
			cmd.Stdin = strings.NewReader("line\n")
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			assert.ErrorContains(t, cmd.Run(), "exit status 7")
			assert.Equal(t, `args ["one" "two words"]
dir /
variable value
input "line\n"
uid 0
pid 1
links [all default lo]
sysctls <nil>
`, out.String())
			assert.Equal(t, "a complaint\n", errs.String())
		})
	}
}

func TestEnterPassesSignalsOn(t *testing.T) {
	testnet.Require(t)
	for _, u := range users() {
		for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGUSR1} {
			t.Run(u.name+"/"+sig.String(), func(t *testing.T) {
				cmd := program(t, u.attr, "wait")
				out := start(t, cmd)
				require.NoError(t, cmd.Process.Signal(sig))
				rest, err := readAll(out)
				require.NoError(t, err)
				assert.Equal(t, fmt.Sprintf("got %v\n", sig), rest)
				assert.EqualError(t, cmd.Wait(), "exit status 3")
			})
		}
	}
}

// A terminal sends Ctrl-C to the program itself too; passed on, it would arrive twice.
func TestCtrlCArrivesOnce(t *testing.T) {
	testnet.Require(t)
	terminal, other := openTerminal(t)
	cmd := program(t, &syscall.SysProcAttr{Setsid: true, Setctty: true}, "wait")
	cmd.Stdin = other // becomes the controlling terminal
	out := start(t, cmd)
	_, err := terminal.Write([]byte{3}) // Ctrl-C
	require.NoError(t, err)
	rest, err := readAll(out)
	require.NoError(t, err)
	assert.Equal(t, "got interrupt\n", rest)
	assert.EqualError(t, cmd.Wait(), "exit status 3")
}

func TestKilledParentLeavesNothing(t *testing.T) {
	testnet.Require(t)
	for _, u := range users() {
		t.Run(u.name, func(t *testing.T) {
			cmd := program(t, u.attr, "wait", "for ever")
			start(t, cmd)
			family := descendants(cmd.Process.Pid)
			require.Len(t, family, 2, "the program inside and its sleep")

			require.NoError(t, cmd.Process.Kill())
			assert.Error(t, cmd.Wait())
			assert.Eventually(t, func() bool { return !slices.ContainsFunc(family, runs) }, 5*time.Second, time.Millisecond)
		})
	}
}

func TestHostIsUntouched(t *testing.T) {
	testnet.Require(t)
	for _, u := range users() {
		t.Run(u.name, func(t *testing.T) {
			before := host(t)
			require.NotEmpty(t, before)
			out, code := output(t, program(t, u.attr, "network"))
			assert.Equal(t, "pinged\n", out)
			assert.Zero(t, code)
			assert.Equal(t, before, host(t))
		})
	}
}

func TestMainRunsEveryMode(t *testing.T) {
	testnet.Require(t)
	const one = "-test.run=^TestLoneNode$"
	tests := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"run", []string{one}, 0, "PASS\n"},
		{"list", []string{"-test.list=^TestLoneNode$"}, 0, "TestLoneNode\n"},
		{"count", []string{one, "-test.count=2", "-test.v"}, 0, "--- PASS: TestLoneNode"},
		{"json's input", []string{one, "-test.v=test2json"}, 0, "--- PASS: TestLoneNode"},
		{"profile", []string{one, "-test.cpuprofile=DIR/cpu", "-test.trace=DIR/trace"}, 0, "PASS\n"},
		{"benchmark", []string{"-test.run=^$", "-test.bench=BenchmarkCommand", "-test.benchtime=1x"}, 0, "BenchmarkCommand"},
		{"fuzz", []string{"-test.run=^$", "-test.fuzz=FuzzParse", "-test.fuzztime=10x", "-test.fuzzcachedir=DIR"}, 0, "PASS\n"},
		{"timeout", []string{"-test.run=^TestFabric", "-test.timeout=1ns"}, 2, "panic: test timed out"},
	}
	for _, u := range users() {
		for _, tt := range tests {
			t.Run(u.name+"/"+tt.name, func(t *testing.T) {
				dir := publicDir(t)
				var args []string
				for _, a := range tt.args {
					args = append(args, strings.ReplaceAll(a, "DIR", dir))
				}
				out, code := output(t, program(t, u.attr, "", args...))
				assert.Equal(t, tt.code, code, out)
				assert.Contains(t, out, tt.want)
			})
		}
	}
}

func TestMainFailsForWhatTestsLeave(t *testing.T) {
	testnet.Require(t)
	out, code := output(t, program(t, nil, "leaky"))
	assert.Equal(t, 1, code)
	assert.Contains(t, out, "testnet: left behind when all tests had ended:")
	assert.Contains(t, out, ": /dev/null")
	assert.Contains(t, out, "sleepForEver")
}

// start starts the program and waits until it says that it is ready.
func start(t *testing.T, cmd *exec.Cmd) *bufio.Reader {
	t.Helper()
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	return r
}

func readAll(r *bufio.Reader) (string, error) {
	var all bytes.Buffer
	_, err := all.ReadFrom(r)
	return all.String(), err
}

// openTerminal makes a pseudo-terminal (man 7 pty).
func openTerminal(t *testing.T) (near, far *os.File) {
	t.Helper()
	near, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { near.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(int(near.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(near.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	far, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { far.Close() })
	return near, far
}

// process is what /proc/PID/stat says; ok is false when there is none.
func process(pid int) (state string, parent int, ok bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0, false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	_, err = fmt.Sscan(rest, &state, &parent)
	return state, parent, err == nil
}

func descendants(of int) []int {
	var all []int
	pids, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range pids {
		pid, _ := strconv.Atoi(filepath.Base(p))
		if _, parent, ok := process(pid); ok && parent == of {
			all = append(append(all, pid), descendants(pid)...)
		}
	}
	return all
}

// runs reports whether the process runs. Where this one is PID 1 it inherits orphans, and buries them.
func runs(pid int) bool {
	state, parent, ok := process(pid)
	if ok && state == "Z" && parent == os.Getpid() {
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
	}
	return ok && state != "Z"
}

// host is the state of this namespace that a program might have changed.
func host(t *testing.T) []string {
	t.Helper()
	var all []string
	links, err := netlink.LinkList()
	require.NoError(t, err)
	for _, l := range links {
		all = append(all, fmt.Sprintf("link %s %s %v", l.Attrs().Name, l.Attrs().HardwareAddr, l.Attrs().Flags))
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	require.NoError(t, err)
	for _, r := range routes {
		all = append(all, "route "+r.String())
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	all = append(all, string(mounts))
	for _, pattern := range []string{"/proc/sys/net/ipv4/*", "/proc/sys/net/ipv[46]/conf/*/*", "/proc/sys/net/core/*"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, f := range files {
			if value, err := os.ReadFile(f); err == nil {
				all = append(all, f+" = "+strings.TrimSpace(string(value)))
			}
		}
	}
	return all
}
