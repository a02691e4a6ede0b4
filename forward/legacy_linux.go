package forward

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/xtables"
)

// legacyRule is a rule of ours in iptables' old tables, as a line of the program's says it. It is a [podweft.Object].
type legacyRule struct {
	program xtables.Family
	args    string // "FORWARD -s 10.244.0.0/16 -m comment --comment podweft-forward-podweft -j ACCEPT"
}

func (r legacyRule) ID() string     { return "rule of " + string(r.program) + " " + r.args }
func (r legacyRule) String() string { return r.ID() }

// compareLegacy lists what is to be changed in the family's old tables. Where there are none, nothing is run.
func (d *Driver) compareLegacy(ctx context.Context, f family, spec Spec) ([]step, error) {
	used, err := xtables.InUse(d.netns, f.legacy, tableName)
	if err != nil || !used {
		return nil, err
	}
	var want []legacyRule
	for way, p := range f.matches(spec) {
		want = append(want, legacyRule{f.legacy, fmt.Sprintf("%s %s %s -m comment --comment %s -j ACCEPT", chainName, way.flag, p, d.mark)})
	}
	text, err := xtables.Run(ctx, d.netns, f.legacy, "-S", chainName)
	if errors.Is(err, xtables.ErrNoProgram) {
		if len(spec.Networks) == 0 {
			return unable(podweft.Delete, podweft.Named("rules of "+string(f.legacy)+" "+chainName+" with the comment "+d.mark)), nil
		}
		return unable(podweft.Create, want...), nil
	}
	if err != nil {
		return nil, err
	}
	var steps []step
	lines := strings.Split(text, "\n")
	if !slices.Contains(lines, "-P "+chainName+" DROP") {
		want = nil
	}
	for _, line := range lines {
		words := xtables.Words(line)
		if i := slices.Index(words, "--comment"); i < 0 || words[0] != "-A" || i+1 == len(words) || words[i+1] != d.mark {
			continue
		}
		r := legacyRule{f.legacy, strings.TrimPrefix(line, "-A ")}
		if i := slices.IndexFunc(want, func(w legacyRule) bool { return slices.Equal(xtables.Words(w.args), words[1:]) }); i >= 0 {
			want = slices.Delete(want, i, i+1)
			continue
		}
		steps = append(steps, d.legacyStep(podweft.Delete, "-D", r))
	}
	for _, r := range want {
		steps = append(steps, d.legacyStep(podweft.Create, "-A", r))
	}
	return steps, nil
}

func (d *Driver) legacyStep(op podweft.Op, command string, r legacyRule) step {
	return step{podweft.Change{Op: op, Object: r}, func(ctx context.Context) error {
		if _, err := xtables.Run(ctx, d.netns, r.program, append([]string{command}, xtables.Words(r.args)...)...); err != nil {
			return &podweft.OpError{Op: op.String(), Object: r, Err: err}
		}
		return nil
	}}
}

// unable is what can be done about old tables without their program: to say so, once for each object. Whether they drop is not
// known, nor whether rules of ours are in them.
func unable[O podweft.Object](op podweft.Op, objects ...O) (steps []step) {
	for _, o := range objects {
		err := &podweft.OpError{Op: op.String(), Object: o, Err: fmt.Errorf(
			"%w: %w: install it, or unload iptable_filter", podweft.ErrNotSupported, xtables.ErrNoProgram)}
		steps = append(steps, step{podweft.Change{Op: op, Object: o}, func(context.Context) error { return err }})
	}
	return steps
}
