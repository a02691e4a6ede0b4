// Package xtables reaches iptables' old tables, which have no way in that is meant for anybody but their own program: it says
// whether a namespace has some, and runs iptables-legacy there. Whoever asks that program first makes the tables, so ask [InUse]
// before.
//
// It knows nothing of rules, nor of iptables-nft, whose tables are nf_tables' (see package nft).
package xtables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/podweft/podweft/internal/netns"
)

// ErrNoProgram: the program that old tables are looked into with is not installed.
var ErrNoProgram = errors.New("iptables' old tables are in use, and their program is not installed")

// Family is IPv4 or IPv6, by the program's name.
type Family string

// The families.
const (
	IPv4 Family = "iptables-legacy"
	IPv6 Family = "ip6tables-legacy"
)

// names is the file that lists the family's tables.
func (f Family) names() string {
	if f == IPv4 {
		return "/proc/thread-self/net/ip_tables_names"
	}
	return "/proc/thread-self/net/ip6_tables_names"
}

// InUse reports whether the namespace at path has that table of the family.
func InUse(path string, f Family, table string) (bool, error) {
	var names []byte
	err := netns.Do(path, func() (err error) {
		names, err = os.ReadFile(f.names())
		return err
	})
	switch {
	case errors.Is(err, fs.ErrNotExist): // the kernel, or the namespace, knows none
		return false, nil
	case err != nil:
		return false, fmt.Errorf("iptables' old tables: %w", err)
	}
	return slices.Contains(strings.Fields(string(names)), table), nil
}

// Run runs the family's program in the namespace at path and returns what it said. The error is ErrNoProgram where it is not
// installed.
func Run(ctx context.Context, path string, f Family, args ...string) (string, error) {
	program, err := exec.LookPath(string(f))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoProgram, err)
	}
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, program, append([]string{"-w", "5"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	// A process begins in the namespace of the thread that starts it.
	if err := netns.Do(path, cmd.Start); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", f, strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}
