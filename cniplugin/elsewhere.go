package cniplugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/podweft/podweft"
)

type (
	dns = types.DNS
	mac = podweft.MAC
)

// Plugins of other types are programs on CNI_PATH, as section 4 of the specification has it: they get the complete
// configuration and the same environment, and one that fails to ADD is told to DEL.

// environment is a call's, with another command, about the task's attachment: a GC's names none.
type environment []string

// AsEnv is the environment of the program.
func (e environment) AsEnv() []string { return e }

func (t *task) environment(command string) environment {
	own := []string{"CNI_COMMAND=" + command}
	if t.container != "" {
		own = append(own, "CNI_CONTAINERID="+t.container, "CNI_IFNAME="+t.ifname, "CNI_NETNS="+t.netns)
	}
	names := func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.ContainsFunc(own, func(o string) bool { return strings.HasPrefix(o, name+"=") })
	}
	return append(slices.DeleteFunc(slices.Clone(t.call.Environ), names), own...)
}

func (t *task) exec() invoke.Exec {
	stderr := t.call.Stderr
	if stderr == nil {
		stderr = io.Discard
	}
	return &program{RawExec: &invoke.RawExec{Stderr: stderr}}
}

// program runs plugins, and looks at what they answer before the library does.
type program struct {
	*invoke.RawExec
	version.PluginDecoder
}

// ExecPlugin runs the plugin at path and returns what it writes.
func (p *program) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	out, err := p.RawExec.ExecPlugin(ctx, path, stdin, environ)
	if err != nil {
		return nil, err
	}
	var answer any
	if err := json.Unmarshal(out, &answer); err == nil {
		if at := null("the result", answer); at != "" {
			return nil, &Error{Code: CodeDecode, Msg: fmt.Sprintf("plugin %q: %s is null: see to the plugin", filepath.Base(path), at)}
		}
	}
	return out, nil // what is no JSON at all, or nothing, is for the library to judge
}

func (t *task) find(kind string) (string, error) {
	if strings.ContainsRune(kind, '/') {
		return "", &Error{Code: CodeConfig, Msg: fmt.Sprintf("type: %q is not a plugin's name", kind)}
	}
	path, err := invoke.FindInPath(kind, filepath.SplitList(t.path))
	if err != nil {
		return "", fail(CodeConfig, fmt.Sprintf("plugin %q is not in CNI_PATH (%s): install it", kind, t.path), err)
	}
	return path, nil
}

// runPlugin runs the program kind with a command that has no result.
func (t *task) runPlugin(kind, command string, raw []byte) error {
	path, err := t.find(kind)
	if err != nil {
		return err
	}
	return invoke.ExecPluginWithoutResult(t.ctx, path, raw, t.environment(command), t.exec())
}

// addPlugin lets the program kind ADD, and DEL what it left behind when it fails.
func (t *task) addPlugin(kind string, raw []byte) (*types100.Result, error) {
	path, err := t.find(kind)
	if err != nil {
		return nil, err
	}
	r, err := invoke.ExecPluginWithResult(t.ctx, path, raw, t.environment("ADD"), t.exec())
	if err == nil {
		var full *types100.Result
		if full, err = types100.GetResult(r); err == nil {
			return full, nil
		}
	}
	if undone := t.runPlugin(kind, "DEL", raw); undone != nil {
		t.log.WarnContext(t.ctx, "plugin did not clean up", "plugin", kind, "err", undone)
	}
	return nil, err
}

func (t *task) delegatedIPAM() bool { return !t.config.builtinIPAM() && !t.config.claimed() }

// allocateElsewhere lets another program give the addresses.
func (t *task) allocateElsewhere(n *network) (g grant, err error) {
	r, err := t.addPlugin(t.config.IPAM.Type, t.config.raw)
	if err != nil {
		return g, err
	}
	g.delegated, g.dns = true, r.DNS
	for _, ip := range r.IPs {
		g.addresses = append(g.addresses, given{fromIPNet(ip.Address), fromIP(ip.Gateway)})
	}
	n.routes = nil // the program answers with those of the configuration
	for _, r := range r.Routes {
		n.routes = append(n.routes, route(r))
	}
	if len(g.addresses) == 0 {
		return g, errors.Join(
			&Error{Code: CodeConfig, Msg: fmt.Sprintf("plugin %q gave no address", t.config.IPAM.Type)}, t.releaseElsewhere())
	}
	return g, nil
}

func (t *task) releaseElsewhere() error {
	return t.runPlugin(t.config.IPAM.Type, "DEL", t.config.raw)
}

func (t *task) checkElsewhere() error { return t.runPlugin(t.config.IPAM.Type, "CHECK", t.config.raw) }

func (t *task) statusElsewhere() error {
	return t.statusOf(t.config.IPAM.Type)
}

// statusOf is the STATUS of the program kind, with a code that STATUS has whatever is the matter with it.
func (t *task) statusOf(kind string) error {
	if err := t.runPlugin(kind, "STATUS", t.config.raw); err != nil {
		return notReady(err)
	}
	return nil
}

// inProcess reports whether this package is the plugin of that type.
func inProcess(kind string) bool {
	return kind == "bridge" || kind == "ptp" || kind == "podweft-cni"
}
