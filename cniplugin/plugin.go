package cniplugin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/podweft/podweft/node/local"
)

// DefaultStateDir holds what lives as long as the pods do: addresses and records. It goes with the boot, and so should a
// directory that replaces it.
const DefaultStateDir = "/run/podweft"

// Config says where the plugin works. Its zero value is right for a program that a runtime starts.
type Config struct {
	// StateDir holds addresses and records; empty means DefaultStateDir. A configuration's stateDir overrides it.
	StateDir string
	// NetNS is the path of the node's network namespace; empty means the caller's.
	NetNS string
	// BootID names the life of the kernel that state is valid in; empty means the running one's.
	BootID string
	// AgentWait is how long an ADD waits for what the node's agent has yet to bring: the node's lease in the subnet file; the agent
	// itself, where it gives the addresses or pods are to wait for it. A node that is starting has it in a moment, and a kubelet that
	// hears of an error asks again after ten seconds or more. Zero means not at all.
	AgentWait time.Duration
	// LockWait is how long a call waits for a lock that another process holds. Whoever runs gives one back within milliseconds, or tenths
	// of a second where there are thousands of pods; one that was stopped (SIGSTOP, a frozen cgroup) keeps it, and the call then fails with
	// code 11. Zero: 20 seconds.
	LockWait time.Duration
	// Logger gets what is done at level debug, and what was left undone as a warning. Nil means what the configuration's
	// logFile says, or silence.
	Logger *slog.Logger
}

// Run answers one call and returns the exit code for it: 0, or 1 with an error on Stdout. It neither exits nor panics on
// input, and any number of calls may run at once, in this process and others.
func Run(ctx context.Context, cfg Config, call Call) (code int) {
	cniVersion, err := run(ctx, cfg, call)
	if err == nil {
		return 0
	}
	e := describe(err)
	if !slices.Contains(version.All.SupportedVersions(), cniVersion) {
		cniVersion = Latest
	}
	raw, err := json.MarshalIndent(struct {
		CNIVersion string `json:"cniVersion"`
		Code       uint   `json:"code"`
		Msg        string `json:"msg"`
		Details    string `json:"details,omitempty"`
	}{cniVersion, e.Code, e.Msg, e.Details}, "", "    ")
	if err == nil {
		_, _ = call.Stdout.Write(append(raw, '\n')) // whom else to tell?
	}
	return 1
}

// run answers the call, unless it fails.
func run(ctx context.Context, cfg Config, call Call) (cniVersion string, err error) {
	p, err := call.parameters()
	if err != nil {
		return "", err
	}
	if p.command == "VERSION" {
		out, err := versions(call.Stdin)
		if err != nil {
			return "", err
		}
		return "", call.answer(out)
	}
	c, err := readConfig(call.Stdin)
	if err == nil {
		err = c.serves(p.command)
	}
	if err != nil {
		return c.version(), err
	}
	log, closeLog, err := c.logger(cfg)
	if err != nil {
		return c.CNIVersion, err
	}
	defer closeLog()
	state := cmp.Or(c.StateDir, cfg.StateDir, DefaultStateDir)
	records, err := local.Open(state+"/attachments", cfg.BootID)
	if err == nil {
		cfg.BootID = records.Boot() // which package ipam need not read again
	}
	if err != nil {
		return c.CNIVersion, fail(CodeIO, "the records of attachments", err)
	}
	cfg.LockWait = cmp.Or(cfg.LockWait, lockWait)
	t := &task{
		ctx: ctx, cfg: cfg, call: call, parameters: p, config: c, state: state, records: records,
		log: log.With("command", p.command, "network", c.Name, "container", p.container, "link", p.ifname),
	}
	result, err := t.dispatch()
	if errors.Is(err, errNoLease) && t.leaseComes() {
		result, err = t.dispatch()
	}
	if err == nil && result != nil {
		err = t.tell(result)
	}
	if err != nil {
		t.log.WarnContext(ctx, "call failed", "err", err)
		return c.CNIVersion, err
	}
	t.log.DebugContext(ctx, "call done")
	return c.CNIVersion, nil
}

// tell answers with a result. An ADD that nobody hears of is undone, or the next one would find the pod attached.
func (t *task) tell(result *types100.Result) error {
	out, err := render(result, t.config.CNIVersion)
	if err == nil {
		err = t.call.answer(out)
	}
	if err == nil || t.command != "ADD" {
		return err
	}
	return stepsDown(err, []func() error{func() error {
		one := *t
		one.command = "DEL"
		_, err := one.dispatch()
		return err
	}})
}

func (c *config) version() string {
	if c == nil {
		return ""
	}
	return c.CNIVersion
}

// render writes a result in the version that was asked for.
func render(r *types100.Result, cniVersion string) ([]byte, error) {
	r.CNIVersion = types100.ImplementedSpecVersion
	as, err := r.GetAsVersion(cniVersion)
	if err != nil {
		return nil, fail(CodeVersion, "the result cannot be written in cniVersion "+cniVersion, err)
	}
	if latest, ok := as.(*types100.Result); ok {
		var indented bytes.Buffer
		err := json.Indent(&indented, written(latest), "", "    ")
		return indented.Bytes(), err
	}
	return json.MarshalIndent(as, "", "    ")
}

// versions answers VERSION, which needs no valid configuration.
func versions(stdin io.Reader) ([]byte, error) {
	asked := struct {
		CNIVersion string `json:"cniVersion"`
	}{}
	raw, err := readInput(stdin)
	if err != nil {
		return nil, err
	}
	if len(strings.TrimSpace(string(raw))) > 0 {
		if err := json.Unmarshal(raw, &asked); err != nil {
			return nil, fail(CodeDecode, "what came on standard input is not JSON", err)
		}
	}
	return json.Marshal(struct {
		CNIVersion string   `json:"cniVersion"`
		Supported  []string `json:"supportedVersions"`
	}{cmp.Or(asked.CNIVersion, Latest), version.All.SupportedVersions()})
}

// logger is the one of the Config, or of the configuration: a file, never standard output.
func (c *config) logger(cfg Config) (*slog.Logger, func(), error) {
	if cfg.Logger != nil || c.LogFile == "" {
		return cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)), func() {}, nil
	}
	var level slog.Level
	if c.LogLevel != "" {
		if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
			return nil, nil, fail(CodeConfig, `logLevel is not "debug", "info", "warn" or "error"`, err)
		}
	}
	f, err := os.OpenFile(c.LogFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, fail(CodeIO, "logFile cannot be opened", err)
	}
	return slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: level})), func() { f.Close() }, nil
}

// task is one call under way.
type task struct {
	ctx  context.Context //nolint:containedctx // it lives for one call
	cfg  Config
	call Call
	parameters
	config  *config
	state   string
	records *local.Records
	log     *slog.Logger

	delegated bool // another program attaches the pod
}

// key names what the call is about.
func (t *task) key() local.Key {
	return local.Key{Network: t.config.Name, Container: t.container, Interface: t.ifname}
}

// dispatch lets the plugin that was called answer.
func (t *task) dispatch() (*types100.Result, error) {
	switch t.call.Type {
	case "loopback":
		return t.loopback()
	case "portmap":
		return t.portmap()
	case "flannel":
		return t.flannel()
	}
	return t.attach()
}

// attach answers for a network whose pods this package attaches.
func (t *task) attach() (*types100.Result, error) {
	switch t.command {
	case "ADD":
		return t.add()
	case "DEL":
		return nil, t.del()
	case "CHECK":
		return nil, t.check()
	case "STATUS":
		return nil, t.status()
	}
	return nil, t.gc()
}

// stepsDown runs undo in reverse order. What fails of it is said behind err, which keeps its code.
func stepsDown(err error, undo []func() error) error {
	var errs []error
	for _, u := range slices.Backward(undo) {
		errs = append(errs, u())
	}
	failed := errors.Join(errs...)
	if failed == nil {
		return err
	}
	e := *describe(err)
	e.Err = errors.Join(err, failed)
	if e.Details != "" {
		e.Details += "; "
	}
	e.Details += "not all could be undone, so DEL it: " + oneLine(failed)
	return &e
}
