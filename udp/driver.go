package udp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/delta"
	"github.com/podweft/podweft/internal/fib"
	"github.com/podweft/podweft/internal/netns"
	"github.com/podweft/podweft/internal/nl"
)

// DefaultOwner is the owner of an instance that does not name itself.
const DefaultOwner = "podweft"

// Config says how a Driver reaches the kernel. Its zero value is a driver for the caller's network namespace.
type Config struct {
	// Owner names the instance; empty means DefaultOwner. The TUN link is marked with it by its alias ("podweft:OWNER"), routes and
	// nexthop objects by a protocol and an id range derived from it and from the package's name. Two instances in one namespace
	// need two owners.
	Owner string
	// NetNS is the path of the network namespace to work in, such as /run/netns/blue; empty means the caller's.
	NetNS string
	// Queues is how many goroutines move packets, each with a queue of the TUN link and a socket of each family: flows spread over
	// them. 0 means half as many as Go may use processors (GOMAXPROCS), but at least 1 and at most 4.
	Queues int
	// Logger gets every change at level debug; a warning of another program's route at a prefix of ours that has a higher metric and so
	// does no harm; and once one where the kernel grants the sockets less memory than they could use. Nil means silence.
	Logger *slog.Logger
}

// Driver keeps the overlay equal to a Spec, and moves its packets while Forward runs. It is a podweft.Driver; give it to a
// podweft.Loop. It is safe for concurrent use.
type Driver struct {
	netns  string
	alias  string
	queues int
	log    *slog.Logger
	conn   *nl.Conn
	fib    *fib.Table
	path   path
	hint   atomic.Pointer[func()] // what Watch is to call
	// What is worth a warning once.
	warnBuffers, warnICMP sync.Once

	mu    sync.Mutex // one pass at a time
	last  *applied   // nil when the next pass must look at everything
	peers []Peer     // of the table in force, in order
	port  uint16     // to which it sends
	users users
}

// applied is the Spec that the kernel agrees with, as far as events tell, and the links it was applied to.
type applied struct {
	spec   Spec
	owners owners
	layout layout
	moved  uint64
}

var _ podweft.Driver[Spec] = (*Driver)(nil)

// maxQueues is MAX_TAP_QUEUES of linux/if_tap.h, which holds for TUN too.
const maxQueues = 256

// New opens the driver's sockets to the kernel. It changes nothing.
func New(cfg Config) (*Driver, error) {
	owner := cmp.Or(cfg.Owner, DefaultOwner)
	queues := cmp.Or(cfg.Queues, min(4, max(1, runtime.GOMAXPROCS(0)/2)))
	if queues < 1 || queues > maxQueues {
		return nil, &podweft.FieldError{Field: "Queues", Value: queues, Problem: "is out of range", Remedy: fmt.Sprintf("use 1 to %d", maxQueues)}
	}
	conn, err := nl.Dial(cfg.NetNS)
	if err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	d := &Driver{
		netns: cfg.NetNS, alias: "podweft:" + owner, log: log, queues: queues,
		conn: conn, fib: fib.New(conn, fib.MarkOf(Type+" "+owner), log), users: newUsers(),
	}
	if d.path.gate, err = newGate(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	d.path.limit, d.path.changed = newLimiter(), make(chan struct{}, 1)
	d.path.tables.Store(newTable())
	return d, nil
}

// Close frees the driver's sockets and detaches from the TUN link; Forward then ends. The link stays, with its addresses and routes,
// so that the next process goes on where this one stopped; until then nobody moves its packets. Use Teardown to remove it.
func (d *Driver) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = nil
	var err error
	d.path.change(func() {
		if !d.path.closed {
			err = errors.Join(d.path.closePorts(), d.path.gate.close())
		}
		d.path.closed = true
	})
	return errors.Join(err, d.conn.Close())
}

// Forward moves packets until ctx ends; it then returns nil. Without it the overlay is there, and carries nothing. Its only other
// error is [os.ErrClosed], after Close: whatever else fails is mended by the next Apply, to which Watch calls.
func (d *Driver) Forward(ctx context.Context) error {
	return d.path.run(ctx, func() {
		if hint := d.hint.Load(); hint != nil {
			(*hint)()
		}
	})
}

// Plan says what Apply would do. See [podweft.Driver].
func (d *Driver) Plan(ctx context.Context, spec Spec) (podweft.Plan, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	spec.Peers = delta.InOrder(spec.Peers, comparePeers)
	s := &step{d: d, ctx: ctx}
	s.sockets(spec)
	if err := s.links(spec); err != nil {
		return s.plan, err
	}
	routes, err := d.fib.Plan(ctx, s.out.scope, s.out.entries(spec))
	removed, added := delta.Sorted(d.peers, spec.Peers, comparePeers, Peer.equal)
	plan := slices.Concat(s.plan, peerPlan(removed, added, spec.port()), routes)
	s.plan = nil
	s.removeLinks()
	return append(plan, s.plan...), err
}

// Apply makes the kernel, and the packet path, agree with spec. See [podweft.Driver]. Its errors are [podweft.ErrInvalid] for a Spec
// that makes no sense, of which nothing is then applied, and an [*podweft.OpError] for each object that failed;
// [podweft.ErrConflict] among them for a link or route of another program that stands in the way, and [podweft.ErrNotSupported]
// where there is no TUN. After Close it is [os.ErrClosed].
func (d *Driver) Apply(ctx context.Context, spec Spec) (podweft.Plan, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.path.closed { // or sockets would be opened that nobody closes
		return nil, os.ErrClosed
	}
	apply := d.all
	if d.sameLinks(ctx, spec) {
		apply = d.change
	}
	plan, err := apply(ctx, spec)
	plan.Log(ctx, d.log)
	return plan, cmp.Or(err, plan.Err())
}

// sameLinks reports whether only peers may differ from what was applied last, and what is remembered of the kernel holds.
func (d *Driver) sameLinks(ctx context.Context, spec Spec) bool {
	return podweft.PassOf(ctx).Watching() && d.last != nil && d.last.moved == d.fib.Moves() && !d.path.broken.Load() &&
		d.last.spec.equalButPeers(spec) && d.fib.Trusted(d.last.layout.scope)
}

// all reads and compares everything.
func (d *Driver) all(ctx context.Context, spec Spec) (podweft.Plan, error) {
	d.last = nil
	owners, err := spec.check()
	if err != nil {
		return nil, err
	}
	spec.Peers = delta.InOrder(spec.Peers, comparePeers)
	moved := d.fib.Moves()
	d.fib.Follow([]string{spec.Device, spec.name()}, fib.Scope{})
	s := &step{d: d, ctx: ctx, write: true}
	s.sockets(spec) // before the link: while another process still has the port, the packets are still its
	if err := s.links(spec); err != nil {
		return s.plan, err
	}
	d.fib.Follow([]string{spec.Device, spec.name()}, s.out.scope)
	if d.path.broken.Load() && !s.portsFailed() {
		d.path.change(func() { d.path.broken.Store(false) })
	}
	peers := d.setTable(spec, s.out.mtu) // before the routes: nobody is to be told that a network is unreachable which is not
	routes, err := d.fib.Apply(ctx, s.out.scope, s.out.entries(spec))
	if err != nil {
		return slices.Concat(s.plan, peers, routes), err
	}
	plan := slices.Concat(s.plan, peers, routes)
	s.plan = nil
	s.removeLinks()
	plan = append(plan, s.plan...)
	if plan.Err() == nil {
		d.last = &applied{spec, owners, s.out, moved}
	}
	return plan, nil
}

// change puts another list of peers in force. The kernel knows nothing of them.
func (d *Driver) change(_ context.Context, spec Spec) (podweft.Plan, error) {
	last := d.last
	d.last = nil
	spec.Peers = delta.InOrder(spec.Peers, comparePeers)
	removed, added := delta.Sorted(last.spec.Peers, spec.Peers, comparePeers, Peer.equal)
	var c checker
	for _, p := range removed {
		last.owners.remove(p)
	}
	for _, p := range added {
		c.peer(func() string { return "Peers of " + p.Node }, p, spec, last.owners)
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	plan := d.setTable(spec, last.layout.mtu)
	last.spec = spec
	d.last = last
	return plan, nil
}

// setTable puts the peers of spec in force.
func (d *Driver) setTable(spec Spec, mtu int) podweft.Plan {
	old := d.path.tables.Load()
	removed, added := delta.Sorted(d.peers, spec.Peers, comparePeers, Peer.equal)
	next := old
	switch {
	case d.port != spec.port():
		d.users = newUsers()
		next = newTable().with(d.users, spec.port(), nil, spec.Peers)
	case len(removed)+len(added) > 0:
		next = old.with(d.users, spec.port(), removed, added)
	}
	set := *next
	set.mtu, set.self = mtu, [2]netip.Addr{}
	for _, a := range spec.Addresses {
		if f := a.Addr().BitLen() / 128; !set.self[f].IsValid() {
			set.self[f] = a.Addr()
		}
	}
	d.path.tables.Store(&set)
	d.peers, d.port = spec.Peers, spec.port()
	return peerPlan(removed, added, spec.port())
}

// peerObject is an object of our plans.
type peerObject struct {
	Peer
	port uint16
}

func (p peerObject) ID() string { return fmt.Sprintf("peer %v", p.Prefixes) }

func (p peerObject) String() string {
	return fmt.Sprintf("peer %v (%s) at %s", p.Prefixes, p.Node, netip.AddrPortFrom(p.Underlay, p.port))
}

// peerPlan is the change from one list of peers to another, both in order.
func peerPlan(removed, added []Peer, port uint16) podweft.Plan {
	plan := make(podweft.Plan, 0, len(removed)+len(added))
	at := firstPrefix
	for len(removed) > 0 || len(added) > 0 {
		switch {
		case len(added) == 0 || len(removed) > 0 && at(removed[0]).Compare(at(added[0])) < 0:
			plan = append(plan, podweft.Change{Op: podweft.Delete, Object: peerObject{removed[0], port}})
			removed = removed[1:]
		case len(removed) == 0 || at(removed[0]) != at(added[0]):
			plan = append(plan, podweft.Change{Op: podweft.Create, Object: peerObject{added[0], port}})
			added = added[1:]
		default:
			note := fmt.Sprintf("was %s at %s", removed[0].Node, removed[0].Underlay)
			plan = append(plan, podweft.Change{Op: podweft.Update, Object: peerObject{added[0], port}, Note: note})
			removed, added = removed[1:], added[1:]
		}
	}
	return plan
}

// entries is what the kernel's tables are to hold: a route for each network.
func (l layout) entries(spec Spec) []fib.Entry {
	if l.tun == 0 {
		return nil
	}
	var e fib.Entry
	for _, n := range spec.Networks {
		direct := netip.IPv6Unspecified()
		if n.Addr().Is4() {
			direct = netip.IPv4Unspecified()
		}
		e.Routes = append(e.Routes, fib.Route{Table: spec.Table, Prefix: n, Gateway: direct, Link: l.tun})
	}
	return []fib.Entry{e}
}

// take makes dev the device of the packet path, and closes the one before.
func (d *Driver) take(dev *device) {
	d.path.change(func() {
		_ = d.path.device.close() // which cannot fail in a way that matters
		d.path.device = dev
	})
}

func (d *Driver) openSockets(f int, at netip.AddrPort) error {
	if d.path.sockets[f].at() == at {
		d.replaceSockets(f, nil) // they have failed, and their port is taken
	}
	var opened sockets
	least := wantedBuffer
	err := netns.Do(d.netns, func() error {
		for range d.queues {
			s, granted, err := openSocket(at, d.queues > 1, d.path.gate)
			if err != nil {
				return err
			}
			opened, least = append(opened, s), min(least, granted)
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, opened.close())
	}
	if least < wantedBuffer {
		d.warnBuffers.Do(func() {
			d.log.Warn("small socket buffers: bursts may be lost", "granted", least, "wanted", wantedBuffer,
				"remedy", "run as root, or raise net.core.rmem_max and net.core.wmem_max")
		})
	}
	d.replaceSockets(f, opened)
	return nil
}

func (d *Driver) replaceSockets(f int, s sockets) {
	d.path.change(func() {
		_ = d.path.sockets[f].close()
		d.path.sockets[f] = s
	})
}

// Watch calls changed whenever somebody else may have changed what the driver made or depends on, and when a port of the packet path
// has failed. See [podweft.Driver].
func (d *Driver) Watch(ctx context.Context, changed func()) error {
	d.hint.Store(&changed)
	defer d.hint.CompareAndSwap(&changed, nil)
	return nl.Watch(ctx, d.netns, d.fib.Events(changed), changed)
}

// Teardown removes everything that bears the driver's mark.
func (d *Driver) Teardown(ctx context.Context) (podweft.Plan, error) { return d.Apply(ctx, Spec{}) }

// Stats returns the driver's counters.
func (d *Driver) Stats() Stats {
	s := d.path.total.stats()
	s.Listings = d.fib.Reads()
	return s
}
