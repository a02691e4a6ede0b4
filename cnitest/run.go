package cnitest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// Config says what is tested.
type Config struct {
	// Dir is where the plugins are, as in CNI_PATH.
	Dir string
	// List is a network configuration list (a conflist), as a runtime reads it. Its first plugin attaches pods.
	List []byte
	// Environ is what plugins find in their environment beside the variables of CNI; nil means this process's.
	Environ []string
}

// Validate reports what is missing, each as a [*podweft.FieldError].
func (cfg Config) Validate() error {
	var errs []error
	if cfg.Dir == "" {
		errs = append(errs, &podweft.FieldError{Field: "Dir", Problem: "is missing", Remedy: "name the directory of the plugins"})
	}
	if _, err := libcni.ConfListFromBytes(cfg.List); err != nil {
		errs = append(errs, &podweft.FieldError{Field: "List", Problem: "is no network configuration list: " + err.Error()})
	}
	return errors.Join(errs...)
}

// Result is how a plugin did by one rule.
type Result struct {
	Rule
	Err     error  // what it did wrong; nil when nothing
	Skipped string // why the rule could not be tried; empty when it was
}

// String is the result as a line for people.
func (r Result) String() string {
	switch {
	case r.Skipped != "":
		return fmt.Sprintf("skip  %-3s %s (%s): %s", r.ID, r.Text, r.Section, r.Skipped)
	case r.Err != nil:
		return fmt.Sprintf("FAIL  %-3s %s (%s): %v", r.ID, r.Text, r.Section, r.Err)
	}
	return fmt.Sprintf("ok    %-3s %s (%s)", r.ID, r.Text, r.Section)
}

// Rule is one of the checklist.
type Rule struct {
	ID      string // "A2"
	Text    string // what a plugin has to do
	Section string // of the specification
	check   func(ctx context.Context, r *runner) error
}

// Run goes through the checklist, in order. Its error is about what is tested, or the machine; what a plugin does wrong is in the
// results.
func Run(ctx context.Context, cfg Config) ([]Result, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	dir, err := newScratch()
	if err != nil {
		return nil, err
	}
	defer dir.remove()
	var all []Result
	for _, rule := range Rules() {
		result, err := runRule(ctx, cfg, rule, dir)
		if err != nil {
			return all, err
		}
		all = append(all, result)
	}
	return all, nil
}

// Test goes through the checklist, a subtest for each rule.
func Test(t *testing.T, cfg Config) {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	dir, err := newScratch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dir.remove)
	for _, rule := range Rules() {
		t.Run(rule.ID, func(t *testing.T) {
			switch r, err := runRule(t.Context(), cfg, rule, dir); {
			case err != nil:
				t.Fatal(err)
			case r.Err != nil:
				t.Error(r)
			default:
				t.Log(r)
			}
		})
	}
}

// errSkip says why a rule cannot be tried.
type errSkip string

func (e errSkip) Error() string { return string(e) }

func runRule(ctx context.Context, cfg Config, rule Rule, dir *scratch) (result Result, err error) {
	r, err := newRunner(cfg, filepath.Join(dir.path, rule.ID))
	if err != nil {
		return result, err
	}
	defer r.close(ctx)
	result = Result{Rule: rule, Err: rule.check(ctx, r)}
	var skip errSkip
	if errors.As(result.Err, &skip) {
		result.Err, result.Skipped = nil, string(skip)
	}
	return result, nil
}

// runner is what a rule works with.
type runner struct {
	cfg   Config
	list  *libcni.NetworkConfigList
	cni   *libcni.CNIConfig
	cache string
	node  *nl.Conn
	pods  []*pod
}

func newRunner(cfg Config, cache string) (*runner, error) {
	list, err := libcni.ConfListFromBytes(cfg.List)
	if err != nil {
		return nil, err
	}
	r := &runner{cfg: cfg, list: list, cache: cache}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return nil, err
	}
	// Named, for the library would make its own at the first call, and calls run at once.
	exec := &strictExec{invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: io.Discard}}}
	r.cni = libcni.NewCNIConfigWithCacheDir([]string{cfg.Dir}, r.cache, exec)
	r.node, err = nl.Dial("")
	return r, err
}

// strictExec says what is wrong where the library would say "invalid character".
type strictExec struct{ invoke.DefaultExec }

func (e *strictExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	stdout, err := e.DefaultExec.ExecPlugin(ctx, path, stdin, environ)
	if err == nil && len(stdout) > 0 {
		err = oneObject(stdout)
	}
	return stdout, err
}

// close detaches what the rule has left attached, so that the next begins afresh.
func (r *runner) close(ctx context.Context) {
	for _, p := range r.pods {
		_ = r.cni.DelNetworkList(context.WithoutCancel(ctx), r.list, p.runtime()) // what goes wrong here, a rule of its own says
		p.close()
	}
	r.node.Close()
}

// first is the configuration of the list's first plugin, as the library hands it over, with some fields set and others (those
// with a nil value) left out.
func (r *runner) first(set map[string]any) []byte {
	var fields map[string]any
	_ = json.Unmarshal(r.list.Plugins[0].Bytes, &fields) // the library has read it already
	fields["name"] = r.list.Name
	fields["cniVersion"] = r.list.CNIVersion
	for k, v := range set {
		if v == nil {
			delete(fields, k)
			continue
		}
		fields[k] = v
	}
	raw, _ := json.Marshal(fields) // it came from JSON
	return raw
}
