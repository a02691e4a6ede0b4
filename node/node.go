package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/subnet"
)

// Node is one node of a pod network. It is safe for concurrent use.
type Node struct {
	cfg   Config
	log   *slog.Logger
	ready chan struct{}

	mu     sync.Mutex
	status Status
}

// Status is how a Node is doing.
type Status struct {
	Node    subnet.Node     // as it was found on the underlay
	Network *subnet.Network // nil until the store has told
	Lease   *subnet.Lease   // nil until there is one
	MTU     int             // for pods, in bytes
	Peers   int             // other nodes' leases in the last snapshot, good or bad
	// Problems are what other nodes wrote and was left out of the last snapshot.
	Problems []subnet.Problem
	Ready    bool
	Backend  podweft.Status
}

// New returns a Node that does nothing before Run. The error is [podweft.ErrInvalid].
func New(cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Node{cfg: cfg, log: log.With("node", cfg.Name), ready: make(chan struct{})}, nil
}

// Ready is closed when the network is ready for pods: the node has a lease, and every peer known then has been tried once.
// Peers that failed hold nobody up; they are in Status.Backend.Failing.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Status returns how the node is doing.
func (n *Node) Status() Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.status
	s.Backend = n.cfg.Backend.Status()
	return s
}

func (n *Node) update(change func(*Status)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(&n.status)
}

// Run takes part in the network until ctx ends; it then returns nil. It can be called once. Its other errors: what
// [Config] names is not there or not permitted; [subnet.ErrExhausted]; [subnet.ErrLeaseLost], when the node's subnet has
// become another's, in which case its pods have to be started anew.
func (n *Node) Run(ctx context.Context) error {
	self, err := n.choose(ctx)
	if err != nil {
		return err
	}
	group, inner := errgroup.WithContext(ctx)
	r := &run{Node: n, group: group, snaps: make(chan *subnet.Snapshot), moved: make(chan struct{}, 1)}
	r.place(self)
	group.Go(func() error { return n.cfg.Backend.Run(inner) })
	group.Go(func() error { return r.feed(inner) })
	group.Go(func() error { return r.watch(inner) })
	group.Go(func() error { return r.follow(inner) })
	err = group.Wait()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	if errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("%w: this takes the capability NET_ADMIN", err)
	}
	return err
}

// choose finds the node on its underlay.
func (n *Node) choose(ctx context.Context) (subnet.Node, error) {
	self, err := Choose(ctx, n.cfg.NetNS, n.cfg.Underlay)
	if err != nil {
		return self, fmt.Errorf("underlay: %w", err)
	}
	self.Name = n.cfg.Name
	return self, nil
}

// run is what one Run knows.
type run struct {
	*Node
	group *errgroup.Group
	snaps chan *subnet.Snapshot
	moved chan struct{} // size 1: look at the underlay again

	// Those of follow's goroutine.
	self     subnet.Node
	hold     *subnet.Hold
	network  *subnet.Network // as it was published last
	last     *subnet.Snapshot
	again    <-chan time.Time // when to look at the underlay once more; nil is never
	agreed   agreement        // with the last snapshot
	firewall firewall
}

// lookAgain is how soon the underlay is looked at once more when it could not be read.
const lookAgain = time.Second

// feed passes the store's snapshots on.
func (r *run) feed(ctx context.Context) error {
	feed := subnet.NewFeed(subnet.FeedConfig{Store: r.cfg.Store, Logger: r.log})
	for snap := range feed.Snapshots(ctx) {
		select {
		case r.snaps <- snap:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// watch has the underlay looked at when a link or an address changes. Where it cannot listen it says so and goes without.
func (r *run) watch(ctx context.Context) error {
	look := func() {
		select {
		case r.moved <- struct{}{}:
		default:
		}
	}
	err := nl.Watch(ctx, r.cfg.NetNS, nl.Events{
		Link: func(int, string) { look() }, Address: func(int) { look() }, Lost: look,
	}, look) // it may have moved before anybody listened
	if err != nil {
		r.log.WarnContext(ctx, "changes of the underlay will not be seen", "err", err)
	}
	return nil
}

// follow handles one change after the other: a snapshot, or the underlay.
func (r *run) follow(ctx context.Context) error {
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r.last = <-r.snaps:
			err = r.observe(ctx, r.last)
		case <-r.moved:
			err = r.look(ctx)
		case <-r.again:
			err = r.look(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// observe joins the network with the first snapshot; it gives each to the Hold and the backend.
func (r *run) observe(ctx context.Context, snap *subnet.Snapshot) error {
	if r.hold == nil {
		if err := r.join(ctx, snap); err != nil {
			return err
		}
	}
	r.hold.Observe(snap)
	if !snap.Network.Equal(r.network) {
		r.publish(ctx, snap.Network)
	}
	return r.set(ctx, snap)
}

// look finds out whether the node has moved on its underlay, and publishes it if so.
func (r *run) look(ctx context.Context) error {
	if r.hold == nil {
		return nil // join looks by itself
	}
	r.again = nil
	self, err := r.choose(ctx)
	if err != nil {
		r.log.WarnContext(ctx, "the node's place on the underlay is not known; the last one stays published", "err", err)
		if choice := (*ChoiceError)(nil); !errors.As(err, &choice) {
			r.again = time.After(lookAgain) // no event will tell that it can be read again
		}
		return nil
	}
	if self == r.self {
		return nil
	}
	if lost := losses(r.self, self); !lost.IsZero() {
		r.log.WarnContext(ctx, "the node's public address is on no interface any more; its place stays the last one", "public", lost)
		return nil
	}
	r.log.InfoContext(ctx, "the node has moved on its underlay", "from", r.self.Underlay, "to", self.Underlay, "mtu", self.MTU)
	r.place(self)
	r.publish(ctx, r.network)
	return r.set(ctx, r.last)
}

// place is where the node is on its underlay from now on.
func (r *run) place(self subnet.Node) {
	r.self = self
	r.update(func(s *Status) { s.Node = self })
}

// losses are the addresses of before that now would be those of a NAT: as a rule they come back, with their interface or their DHCP
// server. A node that is behind a NAT is so from its start.
func losses(before, now subnet.Node) (lost subnet.Addrs) {
	if now.Public.V4 == before.Underlay.V4 {
		lost.V4 = now.Public.V4
	}
	if now.Public.V6 == before.Underlay.V6 {
		lost.V6 = now.Public.V6
	}
	return lost
}

// publish says what follows for peers from the configuration and the node's place. What was published before stays in force
// when it cannot.
func (r *run) publish(ctx context.Context, network *subnet.Network) {
	r.network = network
	lease := r.hold.Lease()
	if lease == nil {
		return // hold.Run says why
	}
	data, mtu, err := r.cfg.Backend.Publish(r.self, network, lease.Data)
	if err == nil {
		err = r.hold.Publish(r.self.Published(), data)
	}
	if err != nil {
		r.log.WarnContext(ctx, "changes not published", "err", err)
		return
	}
	r.update(func(s *Status) { s.MTU = mtu })
}

// join gets the node its lease.
func (r *run) join(ctx context.Context, snap *subnet.Snapshot) error {
	self, err := r.choose(ctx)
	if err != nil {
		return err
	}
	r.place(self)
	if err := r.enableForwarding(snap.Network); err != nil {
		return err
	}
	before, err := loadState(r.cfg.StateFile)
	if err != nil {
		r.log.WarnContext(ctx, "previous lease not known", "err", err)
	}
	if old := snap.Of(r.self); old != nil && before.Data.Equal(subnet.Data{}) {
		before = *old
	}
	data, mtu, err := r.cfg.Backend.Publish(r.self, snap.Network, before.Data)
	if err != nil {
		return err
	}
	hold, err := subnet.NewHold(subnet.HoldConfig{Store: r.cfg.Store, Logger: r.log, Claim: subnet.Claim{
		Node: r.self.Name, Underlay: r.self.Published(), Backend: r.cfg.Backend.Type(), Data: data,
		Prefer: before.Prefixes, TTL: r.cfg.TTL,
	}})
	if err != nil {
		return err
	}
	lease, err := hold.Acquire(ctx)
	if err != nil {
		return err
	}
	if err := saveState(r.cfg.StateFile, lease); err != nil {
		return err
	}
	r.hold, r.network = hold, snap.Network
	r.update(func(s *Status) { s.MTU = mtu })
	r.group.Go(func() error { return hold.Run(ctx) })
	return r.startFirewall(ctx)
}

// set hands the snapshot to the backend.
func (r *run) set(ctx context.Context, snap *subnet.Snapshot) error {
	lease := r.hold.Lease()
	if lease == nil {
		return nil // hold.Run says why
	}
	snap = r.agreed.with(snap, lease)
	generation, problems, err := r.cfg.Backend.Set(r.self, snap)
	if err != nil {
		r.log.WarnContext(ctx, "snapshot not applied", "revision", snap.Revision, "err", err)
		return nil // the last good one stays in force
	}
	problems = append(problems, snap.Problems...)
	r.reportNew(ctx, problems)
	first := false
	r.update(func(s *Status) {
		first = s.Lease == nil
		s.Network, s.Lease, s.Problems, s.Peers = snap.Network, lease, problems, len(snap.Leases)-1
	})
	r.firewall.set(snap.Network, lease)
	if first {
		r.group.Go(func() error { return r.becomeReady(ctx, generation) })
	}
	return nil
}

// reportNew logs the problems that the last snapshot did not have.
func (r *run) reportNew(ctx context.Context, problems []subnet.Problem) {
	r.mu.Lock()
	old := r.status.Problems
	r.mu.Unlock()
	for _, p := range problems {
		known := slices.ContainsFunc(old, func(o subnet.Problem) bool { return o.Error() == p.Error() })
		if !known {
			r.log.WarnContext(ctx, "lease left out", "key", p.Key, "peer", p.Node, "err", p.Err)
		}
	}
}

func (r *run) becomeReady(ctx context.Context, generation uint64) error {
	if err := r.cfg.Backend.Wait(ctx, generation); errors.Is(err, syscall.EPERM) {
		return err // it is not this or that peer which cannot be made
	} else if err != nil && ctx.Err() == nil {
		r.log.WarnContext(ctx, "ready, though not every peer can be reached", "err", err)
	}
	if err := r.firewall.wait(ctx); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.update(func(s *Status) { s.Ready = true })
	close(r.ready)
	return nil
}

// Pods is what is needed to attach pods to this node.
type Pods struct {
	Prefixes subnet.Prefixes // their addresses
	MTU      int             // of their interfaces, in bytes
}

// Pods waits until the node is ready and returns what is needed to attach pods to it. The error is ctx's.
func (n *Node) Pods(ctx context.Context) (Pods, error) {
	select {
	case <-n.ready:
	case <-ctx.Done():
		return Pods{}, ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return Pods{Prefixes: n.status.Lease.Prefixes, MTU: n.status.MTU}, nil
}
