package testnet

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mainOwner owns the goroutines of tests that use no node.
const mainOwner = "main"

// census is what a test binary had before its first test.
type census struct {
	descriptors map[descriptor]bool
	links       map[string]bool
}

func takeCensus() census {
	c := census{descriptors: map[descriptor]bool{}, links: map[string]bool{}}
	for _, d := range descriptors() {
		c.descriptors[d] = true
	}
	for _, l := range ownLinks() {
		c.links[l] = true
	}
	return c
}

// verdict is the exit code of tests that passed: 1, and a message, if something is left of them.
func (c census) verdict() (code int) {
	left := settled(c.leftBehind)
	if len(left) == 0 {
		return 0
	}
	fmt.Fprintf(os.Stderr, "testnet: left behind when all tests had ended:\n%s\n", list(left))
	return 1
}

// leftBehind describes what there is now and was not when the census was taken.
func (c census) leftBehind() []string {
	left := ownedGoroutines()
	for _, d := range descriptors() {
		if !c.descriptors[d] && !d.lasting() {
			left = append(left, d.String())
		}
	}
	for _, l := range ownLinks() {
		if !c.links[l] {
			left = append(left, "link "+l)
		}
	}
	return append(left, children()...)
}

// lasting reports whether the Go runtime or package testing keeps the descriptor until the process ends.
func (d descriptor) lasting() bool {
	if d.target == "anon_inode:[eventpoll]" || d.target == "anon_inode:[eventfd]" || d.splices() {
		return true
	}
	for _, name := range []string{"test.cpuprofile", "test.trace", "test.testlogfile"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" && filepath.Base(f.Value.String()) == filepath.Base(d.target) {
			return true
		}
	}
	return false
}

// splices reports whether the descriptor is a pipe that io.Copy has copied through from one connection to another. Go keeps those
// for the next time, until its collector takes them (internal/poll/splice_linux.go), and no others are that large.
func (d descriptor) splices() bool {
	const size = 1 << 20
	fd, err := strconv.Atoi(d.number)
	if err != nil || !strings.HasPrefix(d.target, "pipe:[") {
		return false
	}
	has, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
	return err == nil && has == size
}

// ownLinks names the links of the process's own namespace, where tests have no business.
func ownLinks() []string {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil
	}
	defer h.Close()
	list, _ := complete(h.LinkList)
	names := make([]string, len(list))
	for i, l := range list {
		names[i] = l.Attrs().Name
	}
	return names
}

// children describes the running processes of which this one is the parent. (Not those that have ended: as PID 1 it inherits
// other people's.)
func children() []string {
	var found []string
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		content, _ := os.ReadFile(stat)
		// "PID (NAME) STATE PPID ...", and the name may hold anything (man 5 proc_pid_stat).
		_, rest, _ := strings.Cut(string(content), ") ")
		var state string
		var parent int
		if _, err := fmt.Sscan(rest, &state, &parent); err == nil && parent == os.Getpid() && state != "Z" {
			found = append(found, describeProcess(filepath.Dir(stat)))
		}
	}
	return found
}
