// Package sysctl reads and sets kernel parameters of a network namespace. It reads first: in a container /proc/sys is often
// read-only, and a parameter that already has the wanted value needs no privilege.
package sysctl

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/netns"
)

// Ensure makes the parameter key ("net/ipv4/ip_forward", with slashes since link names may have dots) have value, in the
// namespace at netnsPath. The error is a [*podweft.OpError] that names the parameter and what an administrator can do;
// it is [podweft.ErrNotSupported] where the kernel lacks the parameter.
func Ensure(netnsPath, key, value string) error {
	err := netns.Do(netnsPath, func() error { return EnsureHere(key, value) })
	var op *podweft.OpError
	if err != nil && !errors.As(err, &op) { // the namespace could not be entered
		return opError(key, value, err)
	}
	return err
}

// Get returns the value of the parameter key in the namespace at netnsPath. Its error is as Ensure's.
func Get(netnsPath, key string) (value string, err error) {
	err = netns.Do(netnsPath, func() error {
		value, err = read(key)
		return err
	})
	if err != nil {
		return "", &podweft.OpError{Op: "read", Object: podweft.Named("sysctl " + key), Err: err}
	}
	return value, nil
}

// EnsureHere is Ensure in the calling thread's namespace.
func EnsureHere(key, value string) error {
	current, err := read(key)
	if err != nil {
		return opError(key, value, err)
	}
	if current == value {
		return nil
	}
	if err := os.WriteFile(path(key), []byte(value), 0); err != nil {
		return opError(key, value, fmt.Errorf("it is %s and cannot be changed from here (%w): set it on the host", current, err))
	}
	return nil
}

// read reads a parameter in the calling thread's namespace.
func read(key string) (string, error) {
	text, err := os.ReadFile(path(key))
	if os.IsNotExist(err) {
		return "", fmt.Errorf("%w: %w", podweft.ErrNotSupported, err)
	}
	return strings.TrimSpace(string(text)), err
}

func path(key string) string { return "/proc/sys/" + key }

func opError(key, value string, err error) error {
	return &podweft.OpError{Op: "set", Object: podweft.Named("sysctl " + key + "=" + value), Err: err}
}
