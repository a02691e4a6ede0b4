package forward

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

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/netns"
)

// legacyRule is a rule of ours in iptables' old tables, as the program's arguments. It is a [podweft.Object].
type legacyRule struct {
	program string
	args    string // "FORWARD -s 10.244.0.0/16 -m comment --comment podweft-forward-podweft -j ACCEPT"
}

func (r legacyRule) ID() string     { return "rule of " + r.program + " " + r.args }
func (r legacyRule) String() string { return r.ID() }

// compareLegacy lists what is to be changed in the family's old tables. Where there are none, nothing is run.
func (d *Driver) compareLegacy(ctx context.Context, f family, spec Spec) ([]step, error) {
	used, err := d.legacy(f)
	if err != nil || !used {
		return nil, err
	}
	var want []legacyRule
	for way, p := range f.matches(spec) {
		want = append(want, legacyRule{f.program, fmt.Sprintf("%s %s %s -m comment --comment %s -j ACCEPT", chainName, way.flag, p, d.mark)})
	}
	text, err := d.run(ctx, f.program, "-S "+chainName)
	if errors.Is(err, exec.ErrNotFound) {
		return unable(want), nil
	}
	if err != nil {
		return nil, err
	}
	var steps []step
	lines := strings.Split(strings.ReplaceAll(text, `"`, ""), "\n")
	if !slices.Contains(lines, "-P "+chainName+" DROP") {
		want = nil
	}
	for _, line := range lines {
		args, is := strings.CutPrefix(line, "-A ")
		if !is || !strings.Contains(args, "--comment "+d.mark+" ") {
			continue
		}
		r := legacyRule{f.program, args}
		if i := slices.Index(want, r); i >= 0 {
			want = slices.Delete(want, i, i+1)
			continue
		}
		steps = append(steps, d.legacyStep(podweft.Delete, "-D ", r))
	}
	for _, r := range want {
		steps = append(steps, d.legacyStep(podweft.Create, "-A ", r))
	}
	return steps, nil
}

func (d *Driver) legacyStep(op podweft.Op, command string, r legacyRule) step {
	return step{podweft.Change{Op: op, Object: r}, func(ctx context.Context) error {
		if _, err := d.run(ctx, r.program, command+r.args); err != nil {
			return &podweft.OpError{Op: op.String(), Object: r, Err: err}
		}
		return nil
	}}
}

// unable is what can be done about old tables without their program: to say so, once for each rule. Whether they drop is not known.
func unable(want []legacyRule) (steps []step) {
	for _, r := range want {
		err := &podweft.OpError{Op: podweft.Create.String(), Object: r, Err: fmt.Errorf(
			"%w: iptables' old tables are in use, and the program to look into them is not installed: install it, or unload iptable_filter",
			podweft.ErrNotSupported)}
		steps = append(steps, step{podweft.Change{Op: podweft.Create, Object: r}, func(context.Context) error { return err }})
	}
	return steps
}

// legacy reports whether the namespace has the family's old table filter. To ask iptables would make one.
func (d *Driver) legacy(f family) (bool, error) {
	var names []byte
	err := netns.Do(d.netns, func() (err error) {
		names, err = os.ReadFile("/proc/thread-self/net/" + f.names)
		return err
	})
	switch {
	case errors.Is(err, fs.ErrNotExist): // the kernel, or the namespace, knows none
		return false, nil
	case err != nil:
		return false, fmt.Errorf("iptables' old tables: %w", err)
	}
	return slices.Contains(strings.Fields(string(names)), tableName), nil
}

// run runs the old tables' program in the namespace and returns what it said.
func (d *Driver) run(ctx context.Context, program, args string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", err
	}
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, path, append([]string{"-w", "5"}, strings.Fields(args)...)...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	// A process begins in the namespace of the thread that starts it.
	if err := netns.Do(d.netns, cmd.Start); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}
