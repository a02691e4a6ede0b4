package calico

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/forward"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/node"
	"github.com/podweft/podweft/roster"
	"github.com/podweft/podweft/subnet"
)

// Agent is one node's part in the network. It is safe for concurrent use.
type Agent struct {
	cfg   Config
	log   *slog.Logger
	ready chan struct{}

	mu     sync.Mutex
	begun  bool
	status Status // but for what is asked of others when somebody wants it
	run    *run   // nil unless Run has it
}

// New returns an Agent that does nothing before Run. The error joins a [*podweft.FieldError] for each field that is wrong.
func New(cfg Config) (*Agent, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	return &Agent{cfg: cfg, log: cfg.Logger.With("node", cfg.Node), ready: make(chan struct{})}, nil
}

// Ready is closed when pods can be attached: the node has its addresses, and everything that follows from what it has learned so far
// has been put into the kernel once. No peer is waited for.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// ErrRunning: the Agent runs already, or has run. It runs once.
var ErrRunning = errors.New("the agent runs already")

// ErrMoved: the node has an address on its underlay that its speaker does not listen at, where BGP.Bound has it listen at those alone that
// there were when it began. Another Agent does.
var ErrMoved = errors.New("the node's address has changed, and its BGP speaker listens at the old one alone: start the agent anew")

// The agent's own rhythm.
const (
	again  = time.Second      // after something has failed
	relook = 5 * time.Second  // before the underlay is looked at anew
	renew  = 20 * time.Second // how often everything is looked at without a hint
	trim   = 5 * time.Minute  // how often blocks are given back that nobody uses
	spare  = 1                // of them are kept, in each family
	asking = 5 * time.Second  // how long a store is given for one look
	breath = 10               // to one part of looking, so many of rest: what thousands of agents ask a store for
)

// Run takes part in the network until ctx ends; it then returns nil and leaves the network as it is, so that pods keep talking. It can
// be called once. Its errors are about what the Config names and is not there or not permitted, and ErrMoved. A store that is away is none:
// the agent waits for it.
func (a *Agent) Run(ctx context.Context) error {
	a.mu.Lock()
	again := a.begun
	a.begun = true
	a.mu.Unlock()
	if again {
		return ErrRunning
	}
	r, err := a.begin(ctx)
	if err == nil {
		err = r.work(ctx)
	}
	if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx))) {
		return nil
	}
	return err
}

// run is what one Run knows.
type run struct {
	*Agent
	parts     *parts
	addresses *block.Allocator
	plugins   *cniplugin.Agent
	speaker   *bgp.Speaker // nil with ByStore
	bound     []netip.Addr // where it listens; none: everywhere
	policing  *policing    // nil without policies
	member    *roster.Member
	collector *block.Collector
	wake      chan struct{}
	astray    atomic.Bool // the node's links have addresses that are others' to have

	mu      sync.Mutex
	learned *bgp.Snapshot // nil until there is one

	// Those of follow's goroutine.
	self      subnet.Node
	networks  []netip.Prefix
	looked    time.Time // when they were found
	tunnels   map[way][]netip.Addr
	nodes     roster.Nodes              // as the store had them last
	known     bool                      // it has told of nodes
	shares    map[string][]netip.Prefix // with ByStore: as the store had them last; nil until it has told
	names     namesakes
	confMTU   int // that the CNI configuration says; zero until it is written
	lastError string
}

// place finds the node on its underlay.
func (a *Agent) place(ctx context.Context) (self subnet.Node, networks []netip.Prefix, err error) {
	self, err = node.Choose(ctx, a.cfg.NetNS, a.cfg.Underlay)
	if err != nil {
		return self, nil, fmt.Errorf("underlay: %w", err)
	}
	self.Name = a.cfg.Node
	if a.cfg.MTU != 0 {
		self.MTU = a.cfg.MTU
	}
	networks, err = node.Networks(a.cfg.NetNS, self.Device)
	return self, networks, err
}

// begin gets everything that work needs.
func (a *Agent) begin(ctx context.Context) (*run, error) {
	r := &run{Agent: a, wake: make(chan struct{}, 1)}
	a.nameLeftovers(ctx)
	for _, step := range []func(context.Context) error{r.settle, r.claim, r.open, r.lift, r.join, r.answer} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, r.close())
		}
	}
	return r, nil
}

// settle makes the node a router.
func (r *run) settle(ctx context.Context) (err error) {
	if r.self, r.networks, err = r.place(ctx); err != nil {
		return err
	}
	r.looked = time.Now()
	return forward.Enable(r.cfg.NetNS, prefixes(r.cfg.Pools)...)
}

// claim learns which blocks the node has.
func (r *run) claim(ctx context.Context) error {
	claimers, err := r.claimers()
	if err == nil {
		r.addresses, err = r.allocator(ctx, claimers)
	}
	return err
}

// address gets the node's links addresses of their own.
func (r *run) address(ctx context.Context) error {
	if err := r.dropLost(ctx, r.addresses); err != nil {
		return err
	}
	return r.insist(ctx, "an address of the node's own", func() (err error) {
		r.tunnels, err = r.claimTunnels(ctx, r.addresses)
		return err
	})
}

// open opens what reaches the kernel, and the speaker.
func (r *run) open(context.Context) (err error) {
	if r.parts, err = openParts(r.cfg); err == nil && r.cfg.Routes == ByBGP {
		cfg := r.speakerConfig(r.self)
		r.bound = cfg.Listen
		r.speaker, err = bgp.New(cfg)
	}
	return err
}

// lift removes the policies of an earlier agent, where this one has none: nobody would keep them up, and to pods that came later they are
// closed.
func (r *run) lift(ctx context.Context) error {
	if r.cfg.Policies != nil {
		return nil
	}
	rules, err := r.cfg.rules()
	if err != nil {
		return err
	}
	defer rules.Close()
	changes, err := rules.Teardown(ctx)
	if err != nil {
		r.log.WarnContext(ctx, "policies of before stay in force", "err", err)
	} else if len(changes) > 0 {
		r.log.InfoContext(ctx, "there are no policies any more: those of before are lifted")
	}
	return nil
}

// close frees what begin has opened. What is in the kernel stays.
func (r *run) close() error {
	var errs []error
	if r.plugins != nil {
		errs = append(errs, r.plugins.Close())
	}
	if r.parts != nil {
		errs = append(errs, r.parts.Close())
	}
	if r.addresses != nil {
		errs = append(errs, r.addresses.Close())
	}
	return errors.Join(errs...)
}

// join prepares to be known, and to collect what dead nodes had, which one node does at a time.
func (r *run) join(context.Context) error {
	self, err := r.cfg.self(r.self.Underlay)
	if err != nil {
		return err
	}
	if r.member, err = roster.NewMember(roster.MemberConfig{Store: r.cfg.Nodes, Node: self, Logger: r.log}); err != nil {
		return err
	}
	r.collector, err = block.NewCollector(block.CollectorConfig{
		Store: r.cfg.Blocks, Dead: r.dead, Lead: r.cfg.Lead, Grace: r.cfg.Grace, Logger: r.log,
		Known: roster.Known(r.cfg.Nodes), Forget: r.cfg.Nodes.ForgetDead,
	})
	return err
}

// dead is the Config's Dead, which says what to do where it cannot tell.
func (r *run) dead(ctx context.Context, nodes []string) ([]string, error) {
	dead, err := r.cfg.Dead(ctx, nodes)
	if errors.Is(err, roster.ErrCut) {
		err = fmt.Errorf("%w: podweft-calico forget NODE does that", err)
	}
	return dead, err
}

// answer begins to listen for the CNI plugin, which waits until work begins. Policies' gate hears here of the pods that are there: before
// the first policy, or for a moment one would not be known to select them.
func (r *run) answer(context.Context) (err error) {
	cfg := cniplugin.AgentConfig{StateDir: r.cfg.StateDir, NetNS: r.cfg.NetNS, Logger: r.log, Allocator: forPods{r.addresses, r.poolsFor, r.cfg.lacking, r.hint}}
	if r.cfg.Policies != nil {
		if r.policing, err = newPolicing(r.cfg, r.parts.policy); err != nil {
			return err
		}
		cfg.Gate = r.policing.gate
	}
	r.plugins, err = cniplugin.NewAgent(cfg)
	return err
}

// police has the policies in force as soon as the parts run. While the source cannot be asked, the rules that are in the kernel stay, and
// the agent waits: without them it would cut off pods that run. What is wrong with single objects costs nobody else anything.
func (r *run) police(ctx context.Context) error {
	if r.policing == nil {
		return nil
	}
	err := r.insist(ctx, "the nodes", func() error {
		v, _, err := r.view(ctx)
		if !v.blank() {
			err = r.policing.settle(v)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := r.insist(ctx, "policies", func() error { return r.policing.list(ctx) }); err != nil {
		return err
	}
	untold, err := r.policing.untold()
	if err != nil {
		r.log.WarnContext(ctx, "which pods are closed is not known", "err", err)
	}
	if len(untold) > 0 {
		r.log.WarnContext(ctx, "not all pods have connections", "pods", untold)
	}
	return nil
}

// work runs everything until ctx ends or something cannot go on.
func (r *run) work(ctx context.Context) error {
	defer r.close()
	r.Agent.mu.Lock()
	r.Agent.run = r
	r.Agent.mu.Unlock()
	defer func() {
		r.Agent.mu.Lock()
		r.Agent.run = nil
		r.Agent.mu.Unlock()
	}()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.member.Run(ctx) })
	group.Go(func() error { return r.collector.Run(ctx) })
	group.Go(func() error { return r.tidy(ctx) })
	group.Go(func() error {
		// What these wait for may take longer than it takes to be held for dead.
		for _, step := range []func(context.Context) error{r.address, r.police} {
			if err := step(ctx); err != nil {
				return err
			}
		}
		r.carry(ctx, group)
		return nil
	})
	return group.Wait()
}

// carry begins what concerns pods and others.
func (r *run) carry(ctx context.Context, group *errgroup.Group) {
	for _, k := range r.parts.all {
		group.Go(func() error { return k.run(ctx) })
	}
	group.Go(func() error { return r.plugins.Run(ctx) })
	if r.cfg.Routes == ByStore { // else BGP tells of others' blocks
		group.Go(func() error { return r.listen(ctx, "blocks", r.cfg.Blocks.Watch, r.hint) })
	}
	group.Go(func() error { return r.listen(ctx, "nodes", r.cfg.Nodes.Watch, r.hint) })
	if r.speaker != nil {
		group.Go(func() error { return r.speaker.Run(ctx) })
		group.Go(func() error {
			for snap := range r.speaker.Snapshots(ctx) {
				r.mu.Lock()
				r.learned = snap
				r.mu.Unlock()
				r.hint()
			}
			return nil
		})
	}
	if r.policing != nil {
		group.Go(func() error {
			return r.listen(ctx, "policies", func(ctx context.Context, _ func()) error { return r.policing.follow(ctx) }, nil)
		})
	}
	group.Go(func() error { return r.follow(ctx) })
}

// hint has follow look again. It never blocks.
func (r *run) hint() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// listen calls changed whenever something may have changed, and begins anew when it breaks.
func (r *run) listen(ctx context.Context, what string, watch func(context.Context, func()) error, changed func()) error {
	for {
		if err := watch(ctx, changed); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "changes are not seen at once", "of", what, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(again):
		}
	}
}

// follow makes of everything that is known what should be, whenever there is a hint.
func (r *run) follow(ctx context.Context) error {
	first := true
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-timer.C:
		}
		begun := time.Now()
		whole, err := r.sync(ctx)
		if errors.Is(err, ErrMoved) {
			return err
		}
		rest := min(breath*time.Since(begun), again)
		next := renew
		if r.report(ctx, err); err != nil {
			next = again
		}
		if whole && err == nil {
			if err := r.allow(ctx, first); err != nil {
				return err
			}
			first = false
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
		case <-time.After(rest):
		}
	}
}

// report logs what keeps sync from its work, once.
func (r *run) report(ctx context.Context, err error) {
	text := ""
	if err != nil && ctx.Err() == nil {
		text = oneLine(err)
	}
	if text != "" && text != r.lastError {
		r.log.WarnContext(ctx, "what is in force stays", "err", err)
	}
	r.lastError = text
	r.Agent.mu.Lock()
	r.Agent.status.Problem = text
	r.Agent.mu.Unlock()
}

// sync looks at everything and says what should be. It reports whether it could say so of other nodes too: a speaker that has just
// started has not learned anything, and that is not for the kernel to know. A store that is away costs no more than its own news: what
// it said last counts, and BGP goes on.
func (r *run) sync(ctx context.Context) (whole bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	if err := r.look(ctx); err != nil {
		return false, err
	}
	homeless := r.readdress(ctx)
	v, problems, away := r.view(ctx)
	away = errors.Join(homeless, away)
	if v.blank() {
		return false, away
	}
	if err := r.tell(v); err != nil {
		return false, errors.Join(err, away)
	}
	r.parts.tellOwn(v)
	if r.policing != nil {
		if err := r.policing.settle(v); err != nil {
			return false, errors.Join(err, away)
		}
	}
	if r.speaker != nil {
		r.mu.Lock()
		learned := r.learned
		r.mu.Unlock()
		if learned == nil {
			return false, away
		}
		v.paths = fromBGP(learned)
	}
	s := r.parts.tell(v)
	r.Agent.mu.Lock()
	st := &r.Agent.status
	st.Node, st.Device, st.Underlay, st.MTU = r.self.Name, r.self.Device, r.self.Underlay, v.podMTU()
	st.Routes, st.Problems = s.routes, problems
	r.Agent.mu.Unlock()
	return true, away
}

// look finds out now and then whether the node has moved on its underlay.
func (r *run) look(ctx context.Context) error {
	if time.Since(r.looked) < relook {
		return nil
	}
	self, networks, err := r.place(ctx)
	if err != nil {
		return err
	}
	for a := range self.Underlay.All() { // one that is gone may come back, and the socket is there still
		if len(r.bound) > 0 && !slices.Contains(r.bound, a) {
			return fmt.Errorf("underlay: %s: %w", a, ErrMoved)
		}
	}
	r.self, r.networks, r.looked = self, networks, time.Now()
	return nil
}

// readdress gives the node's links other addresses when theirs are lost. Where there are none to have, a link goes without until the next
// try: the old ones are others'.
func (r *run) readdress(ctx context.Context) error {
	if !r.astray.Load() {
		return nil
	}
	kept := map[way][]netip.Addr{}
	for w, addrs := range r.tunnels {
		if !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return r.lost(r.addresses, a) }) {
			kept[w] = addrs
		}
	}
	err := r.dropLost(ctx, r.addresses)
	if err == nil {
		var given map[way][]netip.Addr
		given, err = r.claimTunnels(ctx, r.addresses)
		maps.Copy(kept, given)
	}
	r.tunnels = kept
	if err == nil {
		r.astray.Store(false)
	}
	return err
}

// view is what the node sees now. With ByBGP its paths are still to come. Where a store cannot be asked it is what that said last, with
// the error; it is blank if there was nothing yet.
func (r *run) view(ctx context.Context) (v view, problems []string, err error) {
	nodes, err := r.cfg.Nodes.Nodes(ctx)
	if err == nil {
		r.nodes, r.known = nodes, true
	}
	if r.cfg.Routes == ByStore && err == nil {
		var shares map[string][]netip.Prefix
		if shares, err = sharesOf(ctx, r.cfg.Blocks, r.cfg.Pools); err == nil {
			r.shares = shares
		}
	}
	if !r.known || r.cfg.Routes == ByStore && r.shares == nil {
		return view{}, nil, err
	}
	v = view{self: r.self, networks: r.networks, pools: r.cfg.Pools, tunnels: r.tunnels, vni: r.cfg.VNI, port: r.cfg.VXLANPort, own: r.own()}
	v.nodes, problems = fellowsOf(r.nodes, v.self)
	if double := r.names.see(r.nodes, v.self, time.Now()); double.IsValid() {
		problem := namesake(double)
		if problem != r.names.said {
			r.log.WarnContext(ctx, problem)
		}
		r.names.said = problem
		problems = append(problems, "node "+r.self.Name+": "+problem)
	}
	if r.cfg.Routes == ByStore {
		v.paths = v.fromStore(r.shares)
	}
	return v, problems, err
}

// masquerade gives pods of pools with NAT the node's address.
func masquerade(pools []Pool, own []netip.Prefix) (spec nat.Spec) {
	for _, p := range own {
		if pool, ok := poolOf(pools, p); ok && pool.NAT {
			spec.Masquerade = append(spec.Masquerade, p)
		}
	}
	if len(spec.Masquerade) > 0 {
		spec.Exempt = prefixes(pools)
	}
	return spec
}

// allow lets pods come, the first time when all that has been said is in the kernel as far as it can be. The CNI configuration is
// written anew when the pods' MTU has become another.
func (r *run) allow(ctx context.Context, first bool) error {
	if first {
		for _, k := range r.parts.all {
			if err := k.wait(ctx); err != nil && ctx.Err() == nil {
				r.log.WarnContext(ctx, "ready, though not everything is in force", "of", k.name(), "err", err)
			}
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.Agent.mu.Lock()
	mtu := r.Agent.status.MTU
	r.Agent.status.Ready = true
	r.Agent.mu.Unlock()
	if r.cfg.CNIConf != "" && mtu != r.confMTU {
		if err := r.cfg.writeCNI(mtu); err != nil {
			return err
		}
		r.confMTU = mtu
	}
	if first {
		close(r.ready)
		r.log.InfoContext(ctx, "ready", "mtu", mtu)
	}
	return nil
}

// tidy tells the store that the node lives, and gives back the blocks that nobody uses.
func (r *run) tidy(ctx context.Context) error {
	live, idle := time.NewTicker(renew), time.NewTicker(trim)
	defer live.Stop()
	defer idle.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-live.C:
			err = r.stillHere(ctx)
		case <-idle.C:
			err = r.trim(ctx)
		}
		if err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "blocks not looked after", "err", err)
		}
		r.hint() // what the node has may be less now
	}
}

func (r *run) trim(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	_, err := r.addresses.TrimOf(ctx, spare, prefixes(serving(r.cfg.Pools, r.cfg.Labels)))
	return err
}

func (r *run) stillHere(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	lost, err := r.addresses.Sync(ctx)
	for _, l := range lost {
		if isTunnel(l.Owner) {
			r.astray.Store(true)
			continue
		}
		r.log.WarnContext(ctx, "this node was taken for dead, or had another name, and a pod's address is another's: start it anew",
			"container", l.Owner.Container, "address", cmp.Or(l.Addr(), netip.Addr{}))
	}
	return err
}
