package testnet

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// RefusedError is what [Enter] returns where the machine forbids namespaces, and [Sysctls] where it forbids those. It is a
// [podweft.ErrNotSupported] and keeps the errno.
type RefusedError struct {
	Setting string // what forbids it, as an administrator calls it: "sysctl user.max_user_namespaces=0"
	Problem string // what it does: "lets nobody create a network namespace"
	Remedy  string // what to do about it
	Err     error  // the kernel's word
}

// Error is one sentence: setting, problem, the kernel's word, remedy.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s %s (%v): %s", e.Setting, e.Problem, e.Err, e.Remedy)
}

// Unwrap returns the kernel's word.
func (e *RefusedError) Unwrap() error { return e.Err }

// Is reports whether target is [podweft.ErrNotSupported].
func (e *RefusedError) Is(target error) bool { return target == podweft.ErrNotSupported }

// Sysctls reports whether kernel parameters can be set, which Enter does not ask for: nil, or a [*RefusedError]. Everything
// else works without, but a node then forwards only if the host does.
func Sysctls() error {
	f, err := os.OpenFile("/proc/sys/net/ipv4/ip_forward", os.O_WRONLY, 0) // opened, not written
	if err != nil {
		return sysctlRefusal(err)
	}
	return f.Close()
}

func sysctlRefusal(err error) error {
	return &RefusedError{
		Setting: "a read-only /proc/sys, as containers have it,", Problem: "keeps sysctls from being set", Err: errnoOf(err),
		Remedy: "run the container with --privileged, or outside a container",
	}
}

// The steps on the way in, by the names under which the child reports them.
const (
	stepStart   = "start"
	stepMount   = "mount"
	stepProc    = "proc"
	stepNetlink = "netlink"
)

// stepError is a step that the kernel refused.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// machine is what a refusal is explained with.
type machine struct {
	root   bool
	sysctl func(key string) string // "" where there is no such parameter
}

func thisMachine() machine {
	return machine{
		root: os.Geteuid() == 0,
		sysctl: func(key string) string {
			value, _ := os.ReadFile("/proc/sys/" + strings.ReplaceAll(key, ".", "/"))
			return strings.TrimSpace(string(value))
		},
	}
}

// explain turns the last refusal, that of the least demanding way in, into a sentence. The errnos are those of
// clone(CLONE_NEWUSER|CLONE_NEWNET|...) in user_namespaces(7) and clone(2).
func (m machine) explain(refused *stepError) *RefusedError {
	e := &RefusedError{Err: errnoOf(refused)}
	switch {
	case errors.Is(refused, unix.ENOSPC), errors.Is(refused, unix.EUSERS):
		e.Setting, e.Remedy = m.exhausted()
		e.Problem = "lets nobody create another namespace"
	case errors.Is(refused, unix.EINVAL), errors.Is(refused, unix.ENOSYS):
		e.Setting, e.Problem = "this kernel, built without CONFIG_USER_NS or CONFIG_NET_NS,", "has no such namespaces"
		e.Remedy = m.instead("use another kernel")
	case m.sysctl(debianClone) == "0":
		e.Setting, e.Problem = "sysctl "+debianClone+"=0", "keeps ordinary users from creating namespaces"
		e.Remedy = m.instead("sudo sysctl -w " + debianClone + "=1")
	case m.sysctl(ubuntuAppArmor) == "1":
		e.Setting, e.Problem = "sysctl "+ubuntuAppArmor+"=1", "takes every privilege inside a user namespace away"
		e.Remedy = m.instead("sudo sysctl -w " + ubuntuAppArmor + "=0")
	case refused.step != stepStart, errors.Is(refused, unix.EACCES):
		e.Setting, e.Problem = "a security module, such as AppArmor or SELinux,", "forbids this program to use a user namespace"
		e.Remedy = m.instead("change its policy")
	case errors.Is(refused, unix.EPERM):
		e.Setting, e.Problem = "a seccomp filter, as containers have one, or a chroot", "forbids new namespaces"
		e.Remedy = m.instead("leave it")
	default:
		e.Setting, e.Problem, e.Remedy = "this machine", "created no namespaces", m.instead("see to that")
	}
	return e
}

const (
	debianClone    = "kernel.unprivileged_userns_clone"
	ubuntuAppArmor = "kernel.apparmor_restrict_unprivileged_userns"
)

// exhausted finds the limit that was reached; ENOSPC does not say which. All but the first bind root too.
func (m machine) exhausted() (setting, remedy string) {
	for _, kind := range []string{"user", "net", "mnt", "pid"} {
		key := "user.max_" + kind + "_namespaces"
		if m.sysctl(key) != "0" {
			continue
		}
		remedy = "sudo sysctl -w " + key + "=10000"
		if kind == "user" {
			remedy = m.instead(remedy)
		}
		return "sysctl " + key + "=0", remedy
	}
	return "a limit of sysctl user.max_*_namespaces (or of 32 nested user namespaces)", "raise it, or end what uses them up"
}

// instead is the remedy with the way that spares an ordinary user the setting. Root comes here only without CAP_SYS_ADMIN.
func (m machine) instead(remedy string) string {
	if m.root {
		return remedy + ", or give root CAP_SYS_ADMIN (in a container: --privileged)"
	}
	return remedy + ", or run this with sudo"
}

func errnoOf(err error) error {
	if errno := unix.Errno(0); errors.As(err, &errno) {
		return errno
	}
	return err
}
