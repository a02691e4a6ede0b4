package cniplugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/internal/word"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/node/local"
)

// AgentConfig says where an Agent works; each field is as in [Config], but for what it says of itself.
type AgentConfig struct {
	StateDir string
	NetNS    string
	BootID   string
	Logger   *slog.Logger
	// Allocator gives pods their addresses, for plugins whose configuration has "ipam": {"type": "podweft-agent"}. Nil: this agent
	// gives none. It stays the caller's to close.
	Allocator Allocator
	// Gate holds pods back until they may start. It hears of the attachments that are there in NewAgent: make the Agent before the
	// Gate is first told of the cluster. Nil: every pod may start.
	Gate Gate
	// CollectEvery is how often addresses are looked for that nobody uses; what is seen so twice is free. Zero: a minute.
	CollectEvery time.Duration
}

// Agent does for a node's plugins what takes a process that stays: it deletes the links of pods that went, many at a time,
// so that no DEL waits for the kernel, closes their host ports, and puts host ports and masquerading back that somebody has removed. It
// knows from the plugins' records what belongs to pods that live, so that it may be started, killed and started again at any time.
// Plugins work without one.
type Agent struct {
	cfg    AgentConfig
	log    *slog.Logger
	server *local.Server
	ports  *local.Records // host ports
	opened *local.Reader  // of ports

	attachments *local.Records
	masqueraded masqueradeRecords

	begun      time.Time
	sweeping   chan struct{} // size 1: there is something to sweep
	forgetting sync.Mutex    // one at a time removes records of host ports

	mu       sync.Mutex
	networks map[string]*agentNetwork
	unswept  map[string]bool
	group    *errgroup.Group // of Run
	ctx      context.Context //nolint:containedctx // Run's, for the loops of networks that come later
}

// agentNetwork is what an Agent keeps open for a network.
type agentNetwork struct {
	pods  *bridge.Attacher
	ports *nat.Ports
	loop  *podweft.Loop[nat.PortSpec]
	spec  nat.PortSpec
	set   uint64 // generation of spec

	masquerade   *nat.Driver // nil, like the others, until something is recorded
	masquerading *podweft.Loop[nat.Spec]
	masqueraded  nat.Spec
}

// socketOf is where an agent listens.
func socketOf(state string) string { return state + "/agent.sock" }

// NewAgent begins to listen for plugins, which wait from then on for [Agent.Run].
func NewAgent(cfg AgentConfig) (*Agent, error) {
	cfg.StateDir = cmp.Or(cfg.StateDir, DefaultStateDir)
	a := &Agent{
		cfg: cfg, log: cfg.Logger, begun: time.Now(), sweeping: make(chan struct{}, 1),
		networks: map[string]*agentNetwork{}, unswept: map[string]bool{},
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if a.ports, err = local.Open(cfg.StateDir+"/hostports", cfg.BootID); err != nil {
		return nil, err
	}
	a.opened = local.NewReader(a.ports)
	if a.attachments, err = local.Open(cfg.StateDir+"/attachments", cfg.BootID); err != nil {
		return nil, err
	}
	for _, records := range []*local.Records{a.ports, a.attachments} {
		if err := records.Sweep(); err != nil {
			a.log.Warn("what plugins that were killed have left stays", "err", err)
		}
	}
	a.masqueraded = masqueradeRecords{cfg.StateDir + "/masquerade", a.attachments.Boot()}
	a.server, err = local.Listen(local.ServerConfig{
		Path: socketOf(cfg.StateDir), Handler: agentHandler{a}, AdmitsAll: cfg.Gate == nil, Logger: a.log,
	})
	if err != nil {
		return nil, err
	}
	// In this order: a plugin that finds nobody listening has recorded its pod before. An agent that cannot read the records has then
	// taken the place of the one before it.
	if err := a.remember(); err != nil {
		return nil, errors.Join(err, a.server.Close())
	}
	return a, nil
}

// Close stops listening without a Run. Nothing else changes.
func (a *Agent) Close() error { return a.server.Close() }

// Run works until ctx ends, and then returns nil; what pods have stays as it is.
func (a *Agent) Run(ctx context.Context) error {
	var inner context.Context
	a.group, inner = errgroup.WithContext(ctx)
	a.mu.Lock()
	a.ctx = inner
	a.mu.Unlock()
	defer a.forget()
	if err := a.recall(); err != nil {
		if err = errors.Join(err, a.server.Close()); ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return nil
		}
		return err
	}
	a.group.Go(func() error { return a.server.Run(inner) })
	a.group.Go(func() error { return a.sweep(inner) })
	if a.cfg.Allocator != nil {
		a.group.Go(func() error { return a.collect(inner, a.attachments, cmp.Or(a.cfg.CollectEvery, collectEvery)) })
	}
	a.group.Go(func() error {
		return a.ports.Watch(inner, func() {
			if err := a.publish(); err != nil {
				a.log.WarnContext(inner, "host ports not read", "err", err)
			}
		})
	})
	a.group.Go(func() error { return a.keepMasquerading(inner) })
	err := a.group.Wait()
	if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
		return nil
	}
	return err
}

// recall opens the networks that plugins have served, each of which has left its store of addresses or has pods, and has
// everything swept that was retired while no agent ran.
func (a *Agent) recall() error {
	stores, err := filepath.Glob(a.cfg.StateDir + "/ipam/*")
	records, _, unread := a.attachments.All("")
	errs := []error{err, unread}
	names := map[string]bool{}
	for _, rec := range records {
		names[rec.Network] = true
	}
	for _, path := range stores {
		names[filepath.Base(path)] = true
	}
	for name := range names {
		if filepath.Ext(name) == importedMark || !word.Valid(name, maxNetwork) {
			continue
		}
		a.mu.Lock()
		_, err := a.network(name)
		a.mu.Unlock()
		errs = append(errs, err)
		a.bury(name)
	}
	return errors.Join(errs...)
}

// forget closes what Run has opened.
func (a *Agent) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.networks {
		n.pods.Close()
		n.ports.Close()
		if n.masquerade != nil {
			n.masquerade.Close()
		}
	}
	clear(a.networks)
}

// network opens a network, once.
func (a *Agent) network(name string) (*agentNetwork, error) {
	if n, ok := a.networks[name]; ok {
		return n, nil
	}
	if err := a.ctx.Err(); err != nil {
		return nil, err
	}
	n := &agentNetwork{}
	var err error
	if n.pods, err = bridge.New(bridge.Config{Owner: name, NetNS: a.cfg.NetNS, Logger: a.log}); err != nil {
		return nil, err
	}
	if n.ports, err = nat.NewPorts(nat.Config{Owner: name, NetNS: a.cfg.NetNS, Logger: a.log}); err != nil {
		n.pods.Close()
		return nil, err
	}
	a.networks[name] = n
	return n, nil
}

// bury has a network's retired links deleted soon.
func (a *Agent) bury(network string) {
	a.mu.Lock()
	a.unswept[network] = true
	a.mu.Unlock()
	select {
	case a.sweeping <- struct{}{}:
	default:
	}
}

// sweepAgain is when links are tried again that could not be deleted.
const sweepAgain = time.Second

// sweep deletes retired links until ctx ends. What is retired while the kernel makes it wait goes in the next round.
func (a *Agent) sweep(ctx context.Context) error {
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.sweeping:
		case <-again:
		}
		if again = nil; !a.sweepAll(ctx) {
			again = time.After(sweepAgain)
		}
	}
}

// sweepAll does so once for each network that is due, and reports whether none is left. One that failed stays due.
func (a *Agent) sweepAll(ctx context.Context) bool {
	a.mu.Lock()
	due := a.unswept
	a.unswept = map[string]bool{}
	a.mu.Unlock()
	done := true
	for name := range due {
		a.mu.Lock()
		n, err := a.network(name)
		a.mu.Unlock()
		if err == nil {
			err = n.pods.Sweep(ctx)
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		a.log.WarnContext(ctx, "links of pods that went stay", "network", name, "err", err)
		done = false
		a.mu.Lock()
		a.unswept[name] = true
		a.mu.Unlock()
	}
	return done
}

// recordedPorts is a driver that applies what is recorded when the table has been read, which may be more than what the Loop was
// told: plugins record a host port and then open it, at any time.
type recordedPorts struct {
	*nat.Ports
	recorded func() (nat.PortSpec, error)
}

// Apply implements podweft.Driver.
func (p recordedPorts) Apply(ctx context.Context, _ nat.PortSpec) (podweft.Plan, error) {
	return p.ApplyLatest(ctx, p.recorded)
}

// recorded are a network's host ports.
func (a *Agent) recorded(network string) (nat.PortSpec, error) {
	specs, err := a.allRecorded(network)
	if spec, ok := specs[network]; ok || err != nil {
		return spec, err
	}
	return nat.PortSpec{Ports: []nat.HostPort{}}, nil
}

// allRecorded are the host ports of each network, or of the one that is named.
func (a *Agent) allRecorded(network string) (map[string]nat.PortSpec, error) {
	records, problems, err := a.opened.All(network)
	if err != nil {
		return nil, err
	}
	for _, p := range problems {
		a.log.Warn("host ports left out", "err", p)
	}
	return portSpecs(records, func(err error) { a.log.Warn("host port left out", "err", err) }), nil
}

// publish makes the host ports that are recorded the ones to keep.
func (a *Agent) publish() error {
	specs, err := a.allRecorded("")
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for name := range a.networks {
		if _, ok := specs[name]; !ok {
			specs[name] = nat.PortSpec{Ports: []nat.HostPort{}}
		}
	}
	var errs []error
	for name, spec := range specs {
		if n := a.networks[name]; n == nil || n.loop == nil || !slices.Equal(spec.Ports, n.spec.Ports) || !slices.Equal(spec.Near, n.spec.Near) {
			errs = append(errs, a.keep(name, spec))
		}
	}
	return errors.Join(errs...)
}

// publishOne does so for one network, also when its records are as they were heard of last: a plugin that recorded a host port since
// has opened it by itself.
func (a *Agent) publishOne(network string) error {
	spec, err := a.recorded(network)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.keep(network, spec)
}

// keep has a network's host ports kept as spec says. The caller holds the mutex.
func (a *Agent) keep(name string, spec nat.PortSpec) error {
	n, err := a.network(name)
	if err != nil {
		return fmt.Errorf("host ports of %s: %w", name, err)
	}
	if n.loop == nil {
		if len(spec.Ports) == 0 { // none that we know of; others may be left, if there is a table
			if plan, err := n.ports.Plan(a.ctx, nat.PortSpec{}); err != nil || len(plan) == 0 {
				return err
			}
		}
		n.loop = podweft.NewLoop(recordedPorts{n.ports, func() (nat.PortSpec, error) { return a.recorded(name) }}, podweft.LoopConfig{Logger: a.log})
		a.group.Go(func() error { return n.loop.Run(a.ctx) })
	}
	n.spec, n.set = spec, n.loop.Set(spec)
	return nil
}

// portSpecs are the host ports of each network. Of two pods that want the same one, it is the earlier's: the later one is about
// to be refused.
func portSpecs(records []local.Record, problem func(error)) map[string]nat.PortSpec {
	slices.SortStableFunc(records, func(a, b local.Record) int { return cmp.Compare(a.Uptime, b.Uptime) })
	specs := map[string]nat.PortSpec{}
	taken := map[string]map[nat.HostPort]bool{}
	for _, rec := range records {
		all, err := lead(rec.HostPorts, rec.Addresses)
		if err == nil {
			err = nat.PortSpec{Ports: all}.Validate()
		}
		if err != nil {
			problem(fmt.Errorf("%s: %w", rec.Key(), err))
			continue
		}
		spec := specs[rec.Network]
		if taken[rec.Network] == nil {
			taken[rec.Network] = map[nat.HostPort]bool{}
		}
		for _, h := range all {
			if place := h.Place(); !taken[rec.Network][place] {
				taken[rec.Network][place] = true
				spec.Ports = append(spec.Ports, h)
			}
		}
		for _, p := range rec.Addresses {
			if !slices.Contains(spec.Near, p.Masked()) {
				spec.Near = append(spec.Near, p.Masked())
			}
		}
		specs[rec.Network] = spec
	}
	for _, spec := range specs {
		slices.SortFunc(spec.Near, netip.Prefix.Compare)
	}
	return specs
}

// agentHandler answers plugins.
type agentHandler struct{ *Agent }

// Detach returns when the host ports of these attachments are closed; their links, which plugins have retired, go later, and also
// when it fails.
func (h agentHandler) Detach(ctx context.Context, keys []local.Key) error {
	networks, err := h.forgetPorts(keys)
	if err != nil {
		return err
	}
	for network, had := range networks {
		if err := h.settled(ctx, network); err != nil && (had || ctx.Err() != nil) { // no other's trouble is theirs
			return err
		}
	}
	h.leave(keys)
	return h.release(ctx, keys)
}

// forgetPorts removes what is recorded of the attachments' host ports, and returns their networks and whether there was anything. A
// call that finds nothing may be the second one for an attachment, after a plugin that was killed: it too has to wait until what the
// first removed is closed, and so must never find a record gone and its network as it was.
func (a *Agent) forgetPorts(keys []local.Key) (networks map[string]bool, err error) {
	a.forgetting.Lock()
	defer a.forgetting.Unlock()
	networks = map[string]bool{}
	for _, k := range keys {
		a.bury(k.Network)
		_, err := a.ports.Get(k)
		had := !errors.Is(err, local.ErrNoRecord)
		networks[k.Network] = networks[k.Network] || had
		if !had {
			continue
		}
		if err := a.ports.Remove(k); err != nil {
			return nil, err
		}
	}
	for network, had := range networks {
		if !had {
			continue // no other's trouble is theirs
		}
		if err := a.publishOne(network); err != nil {
			return nil, err
		}
	}
	return networks, nil
}

// settled waits until a network's host ports are what was set last.
func (a *Agent) settled(ctx context.Context, network string) error {
	a.mu.Lock()
	n := a.networks[network]
	if n == nil || n.loop == nil {
		a.mu.Unlock()
		return nil
	}
	loop, set := n.loop, n.set
	a.mu.Unlock()
	return loop.Wait(ctx, set)
}

// Status is that of a node whose plugins need nobody.
func (h agentHandler) Status(context.Context) (local.Status, error) {
	return local.Status{Ready: true, Started: h.begun}, nil
}
