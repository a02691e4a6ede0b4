package cnitest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// delegate is a plugin for addresses of our own, in CNI_PATH, which notes what it is given.
type delegate struct {
	r   *runner
	dir string
	set map[string]any // what makes the first plugin delegate to it
}

func (r *runner) delegate(ctx context.Context, rule string) (*delegate, error) {
	if r.list.Plugins[0].Network.Type == "flannel" {
		return nil, errSkip("the first plugin makes its delegate's configuration itself")
	}
	dir, err := os.MkdirTemp(r.cache, "delegate")
	if err != nil {
		return nil, err
	}
	script := `#!/bin/sh
cd ` + dir + `
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $(cat)" >>log
[ -e "refuses-$CNI_COMMAND" ] && cat "refuses-$CNI_COMMAND" && exit 1
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion":"` + r.list.CNIVersion + `","ips":[{"version":"4","address":"198.18.7.9/24","gateway":"198.18.7.1"}]}'
`
	if err := os.WriteFile(filepath.Join(dir, "cnitest-ipam"), []byte(script), 0o700); err != nil {
		return nil, err
	}
	// A bridge of its own, for plugins that have one: the other's address is of another subnet.
	d := &delegate{r, dir, map[string]any{
		"ipam": map[string]any{"type": "cnitest-ipam", "note": "passed on"}, "bridge": "cnitest-" + rule,
	}}
	if r.list.Plugins[0].Network.IPAM.Type == "" {
		return d, d.tried(ctx, rule)
	}
	return d, nil
}

// tried skips what cannot be seen of a plugin that delegates to nobody. One whose configuration in the list names a plugin for addresses
// is taken at its word.
func (d *delegate) tried(ctx context.Context, rule string) error {
	p, err := d.r.pod(rule + "-tried")
	if err != nil {
		return err
	}
	for _, command := range []string{"ADD", "DEL"} { // whether they succeed is for the rules to say
		if _, err := d.call(ctx, command, p, nil); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(d.dir, "log")); err != nil {
		return errSkip("the first plugin gives addresses by itself: the list has no ipam.type for it, and it does not call one that is given")
	}
	return nil
}

// call calls the first plugin, which delegates.
func (d *delegate) call(ctx context.Context, command string, p *pod, set map[string]any) (answer, error) {
	all := map[string]any{}
	for _, fields := range []map[string]any{d.set, set} {
		for k, v := range fields {
			all[k] = v
		}
	}
	vars := d.r.vars(command, p)
	vars["CNI_PATH"] = d.dir + string(os.PathListSeparator) + d.r.cfg.Dir
	return d.r.call(ctx, d.r.first(all), vars)
}

// works reports a call that fails.
func (d *delegate) works(ctx context.Context, command string, p *pod, set map[string]any) (answer, error) {
	a, err := d.call(ctx, command, p, set)
	if err == nil && a.code != 0 {
		err = fmt.Errorf("%s: %s", command, short(a.stdout))
	}
	return a, err
}

// refuse has it fail from now on.
func (d *delegate) refuse(command string, code int) error {
	text := fmt.Sprintf(`{"cniVersion":"%s","code":%d,"msg":"cnitest-ipam refuses"}`, d.r.list.CNIVersion, code)
	return os.WriteFile(filepath.Join(d.dir, "refuses-"+command), []byte(text), 0o600)
}

// called reports what it was not called with.
func (d *delegate) called(with ...string) error {
	noted, err := os.ReadFile(filepath.Join(d.dir, "log"))
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("the delegate was not called")
	}
	errs := []error{err}
	for _, want := range with {
		if !strings.Contains(string(noted), want) {
			errs = append(errs, fmt.Errorf("the delegate was not called with %q", want))
		}
	}
	return errors.Join(errs...)
}

func delegates(ctx context.Context, r *runner) error {
	d, err := r.delegate(ctx, "l3")
	if err != nil {
		return err
	}
	p, err := r.pod("l3")
	if err != nil {
		return err
	}
	var errs []error
	for _, command := range []string{"ADD", "DEL"} {
		_, err := d.works(ctx, command, p, nil)
		errs = append(errs, err)
	}
	errs = append(errs, d.called("ADD "+p.id+" eth0 {", "DEL "+p.id+" eth0 {", `"note":"passed on"`))
	return errors.Join(errs...)
}

// skipsDelegate is nil for an error that says only that there is no delegate to look at.
func skipsDelegate(err error) error {
	var skip errSkip
	if errors.As(err, &skip) {
		return nil
	}
	return err
}

// checksDelegate: the delegate is asked, and what it finds is the answer.
func checksDelegate(ctx context.Context, r *runner) error {
	d, err := r.delegate(ctx, "c2")
	if err != nil {
		return skipsDelegate(err)
	}
	p, err := r.pod("c2-delegate")
	if err != nil {
		return err
	}
	added, err := d.works(ctx, "ADD", p, nil)
	if err != nil {
		return err
	}
	before := map[string]any{"prevResult": json.RawMessage(added.stdout)}
	if _, err = d.works(ctx, "CHECK", p, before); err == nil {
		err = d.called("CHECK " + p.id + " eth0 {")
	}
	err = errors.Join(err, d.refuse("CHECK", 11))
	if a, called := d.call(ctx, "CHECK", p, before); called != nil || a.code == 0 {
		err = errors.Join(err, called, errors.New("the delegate's CHECK fails: CHECK passes"))
	}
	_, gone := d.works(ctx, "DEL", p, nil)
	return errors.Join(err, gone)
}

// statusOfDelegate: who cannot give addresses says so for whoever needs them.
func statusOfDelegate(ctx context.Context, r *runner) error {
	d, err := r.delegate(ctx, "s1")
	if err != nil {
		return skipsDelegate(err)
	}
	set := map[string]any{"cniVersion": "1.1.0"}
	if _, err = d.works(ctx, "STATUS", nil, set); err == nil {
		err = d.called("STATUS ")
	}
	err = errors.Join(err, d.refuse("STATUS", 50))
	a, called := d.call(ctx, "STATUS", nil, set)
	if called == nil {
		called = a.failedWith(50)
	}
	if called != nil {
		called = fmt.Errorf("the delegate's STATUS is 50: %w", called)
	}
	return errors.Join(err, called)
}

// collectsDelegates: the delegate collects too, and what it could not is no secret.
func collectsDelegates(ctx context.Context, r *runner) error {
	d, err := r.delegate(ctx, "g1")
	if err != nil {
		return skipsDelegate(err)
	}
	set := map[string]any{"cniVersion": "1.1.0", "cni.dev/valid-attachments": []any{}}
	if _, err = d.works(ctx, "GC", nil, set); err == nil {
		err = d.called("GC ", `"cni.dev/valid-attachments":[]`)
	}
	err = errors.Join(err, d.refuse("GC", 11))
	if a, called := d.call(ctx, "GC", nil, set); called != nil || a.code == 0 {
		err = errors.Join(err, called, errors.New("the delegate's GC fails: GC reports no error"))
	}
	return err
}
