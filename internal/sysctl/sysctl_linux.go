// Package sysctl reads and sets kernel parameters of a network namespace. It reads first: in a container /proc/sys is often
// read-only, and a parameter that already has the wanted value needs no privilege.
package sysctl

import (
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
	return netns.Do(netnsPath, func() error { return EnsureHere(key, value) })
}

// EnsureHere is Ensure in the calling thread's namespace.
func EnsureHere(key, value string) error {
	path := "/proc/sys/" + key
	current, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return opError(key, value, fmt.Errorf("%w: %w", podweft.ErrNotSupported, err))
	}
	if err != nil {
		return opError(key, value, err)
	}
	if strings.TrimSpace(string(current)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return opError(key, value, fmt.Errorf("it is %s and cannot be changed from here (%w): set it on the host",
			strings.TrimSpace(string(current)), err))
	}
	return nil
}

func opError(key, value string, err error) error {
	return &podweft.OpError{Op: "set", Object: podweft.Named("sysctl " + key + "=" + value), Err: err}
}
