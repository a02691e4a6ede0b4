package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/netns"
)

// tools are the programs to run, by their names.
type tools struct {
	netns string
	// affix is what stands between "iptables" and "-restore" in the names of the variant's programs.
	affix string
}

// lockWait is how long, in seconds, iptables waits for another one of its kind. The nft variant needs no lock.
const lockWait = "10"

func (t tools) save(ctx context.Context, f family) ([]byte, error) {
	return t.run(ctx, "", f.tool+t.affix+"-save", "-c", "-t", "mangle")
}

func (t tools) restore(ctx context.Context, f family, script string) error {
	_, err := t.run(ctx, script, f.tool+t.affix+"-restore", "--noflush", "-w", lockWait)
	return err
}

func (t tools) saveSets(ctx context.Context) ([]byte, error) { return t.run(ctx, "", "ipset", "save") }

func (t tools) restoreSets(ctx context.Context, script string) error {
	_, err := t.run(ctx, script, "ipset", "-exist", "restore")
	return err
}

// run runs a program in the namespace and returns what it writes.
func (t tools) run(ctx context.Context, input, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &said
	err := netns.Do(t.netns, cmd.Start) // a child belongs to the namespace of the thread that starts it
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return nil, &podweft.OpError{Op: "run", Object: podweft.Named(name), Err: explain(name, input, said.String(), err)}
	}
	return out.Bytes(), nil
}

// complaints are how the programs say that something is missing, and what helps. The programs of both variants and of several
// versions are asked, so that there are several for one thing.
var complaints = []struct {
	words  []string
	err    error
	remedy string
}{
	{[]string{"Permission denied", "Operation not permitted"}, unix.EPERM, "CAP_NET_ADMIN is needed in the namespace's user namespace"},
	{[]string{"xtables lock"}, unix.EAGAIN, "another program holds the lock for longer than " + lockWait + " seconds"},
	{[]string{"Cannot open session to kernel", "set type not supported", "Protocol error"}, podweft.ErrNotSupported, "load ip_set and its types: hash:ip, hash:net, hash:ip,port"},
	{[]string{"missing kernel module", "Couldn't load match", "No chain/target/match", "initialize ip", "Failed to initialize nft", "RULE_APPEND failed (No such file"},
		podweft.ErrNotSupported, "load iptable_mangle (ip6table_mangle), or nft_compat, and what the package's documentation names, or choose the other variant"},
}

// explain makes one error of what a program has said and how it has ended.
func explain(name, input, said string, err error) error {
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w: %w: install %s", podweft.ErrNotSupported, err, strings.TrimPrefix(packageOf(name), "ip6"))
	}
	said = strings.Join(slices.DeleteFunc(strings.Split(strings.TrimSpace(said), "\n"), chatter), "; ")
	if line := lineIn(said, input); line != "" {
		said += fmt.Sprintf(" (%q)", line)
	}
	for _, c := range complaints {
		if slices.ContainsFunc(c.words, func(w string) bool { return strings.Contains(said, w) }) {
			return fmt.Errorf("%w: %s: %s", c.err, said, c.remedy)
		}
	}
	if said == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, said)
}

func packageOf(program string) string {
	if program == "ipset" {
		return "ipset"
	}
	return "iptables"
}

// chatter is what programs say besides.
func chatter(line string) bool {
	return strings.HasPrefix(line, "Try `") || strings.HasPrefix(line, "# Warning")
}

// lineIn returns the line of the input that the program names.
func lineIn(said, input string) string {
	for _, format := range []string{"rror occurred at line: ", "rror in line ", "line "} {
		if _, after, ok := strings.Cut(said, format); ok {
			var number int
			if _, err := fmt.Sscanf(after, "%d", &number); err == nil {
				if all := strings.Split(input, "\n"); number > 0 && number <= len(all) {
					return all[number-1]
				}
			}
		}
	}
	return ""
}
