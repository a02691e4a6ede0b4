package testnet

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// holders describes everything that keeps the node's namespace but the node itself: sockets, TUNs and descriptors of this
// process, its threads, other processes, mounts.
func (n *Node) holders() []string {
	if id, err := os.Readlink(n.path); err != nil || id != n.id {
		return nil // the test has closed it, and somebody else may have the descriptor, or the id, by now
	}
	var held []string
	for _, d := range descriptors() {
		if d.number != path.Base(n.path) && d.namespace() == n.id {
			held = append(held, d.String())
		}
	}
	held = append(held, threadsIn(n.id)...)
	held = append(held, processesIn(n.id)...)
	return append(held, mountsOf(n.id)...)
}

// descriptor is an open one of this process.
type descriptor struct {
	number string
	target string // as in "socket:[4711]"
}

func (d descriptor) String() string { return fmt.Sprintf("descriptor %s: %s", d.number, d.target) }

func descriptors() []descriptor {
	const dir = "/proc/self/fd/"
	entries, _ := os.ReadDir(dir)
	var all []descriptor
	for _, e := range entries {
		if target, err := os.Readlink(dir + e.Name()); err == nil { // else just closed, like the one that was read
			all = append(all, descriptor{number: e.Name(), target: target})
		}
	}
	return all
}

// namespace is the id of the network namespace that the descriptor is or belongs to; empty if none.
func (d descriptor) namespace() string {
	if strings.HasPrefix(d.target, "net:[") {
		return d.target
	}
	if !strings.HasPrefix(d.target, "socket:[") && d.target != "/dev/net/tun" {
		return ""
	}
	fd, err := strconv.Atoi(d.number)
	if err != nil {
		return ""
	}
	ns, err := unix.IoctlRetInt(fd, unix.SIOCGSKNS) // TUNs know it too (__tun_chr_ioctl, drivers/net/tun.c)
	if err != nil {
		return ""
	}
	defer unix.Close(ns)
	id, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", ns))
	return id
}

func threadsIn(id string) []string {
	var found []string
	threads, _ := filepath.Glob("/proc/self/task/*")
	for _, t := range threads {
		if ns, _ := os.Readlink(t + "/ns/net"); ns == id {
			found = append(found, "thread "+path.Base(t)+" of this process")
		}
	}
	return found
}

func processesIn(id string) []string {
	var found []string
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		if ns, _ := os.Readlink(p + "/ns/net"); ns == id {
			found = append(found, describeProcess(p))
		}
	}
	return found
}

func describeProcess(proc string) string {
	cmdline, _ := os.ReadFile(proc + "/cmdline")
	return fmt.Sprintf("process %s: %s", path.Base(proc), strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " ")))
}

// mountsOf lists the mounts that hold the namespace, as `ip netns add` makes one. Field 4 of mountinfo is the root of the
// mount, field 5 its place (man 5 proc_pid_mountinfo).
func mountsOf(id string) []string {
	var found []string
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[3] == id {
			found = append(found, "mount "+fields[4])
		}
	}
	return found
}
