package ipip

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/delta"
	"github.com/podweft/podweft/internal/fib"
	"github.com/podweft/podweft/internal/nl"
)

// DefaultOwner is the owner of an instance that does not name itself.
const DefaultOwner = "podweft"

// Config says how a Driver reaches the kernel. Its zero value is a driver for the caller's network namespace.
type Config struct {
	// Owner names the instance; empty means DefaultOwner. Everything it creates is marked with it: links by their alias
	// ("podweft:OWNER"), routes and nexthop objects by a protocol and an id range derived from it and from the package's
	// name. Two instances in one namespace need two owners.
	Owner string
	// NetNS is the path of the network namespace to work in, such as /run/netns/blue; empty means the caller's.
	NetNS string
	// Logger gets every change at level debug; nil means silence.
	Logger *slog.Logger
}

// Driver keeps the kernel's IP-in-IP network equal to a Spec. It is a podweft.Driver; give it to a podweft.Loop. It is safe
// for concurrent use.
type Driver struct {
	netns string
	alias string
	log   *slog.Logger
	conn  *nl.Conn
	table *fib.Table

	mu   sync.Mutex // one pass at a time
	last *applied   // nil when the next pass must look at everything
}

// applied is the Spec that the kernel agrees with, as far as events tell, and the links it was applied to.
type applied struct {
	spec   Spec
	index  *index
	layout layout
	moved  uint64
}

var _ podweft.Driver[Spec] = (*Driver)(nil)

// New opens the driver's sockets. It changes nothing in the kernel.
func New(cfg Config) (*Driver, error) {
	owner := cmp.Or(cfg.Owner, DefaultOwner)
	conn, err := nl.Dial(cfg.NetNS)
	if err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Driver{
		netns: cfg.NetNS, alias: "podweft:" + owner, log: log,
		conn: conn, table: fib.New(conn, fib.MarkOf(Type+" "+owner)),
	}, nil
}

// Close frees the driver's sockets. The network stays up and goes on carrying traffic; use Teardown to remove it.
func (d *Driver) Close() error { return d.conn.Close() }

// Plan says what Apply would do. See [podweft.Driver].
func (d *Driver) Plan(ctx context.Context, spec Spec) (podweft.Plan, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	plan, layout, err := d.links(ctx, spec, false)
	if err != nil {
		return plan, err
	}
	entries, err := d.table.Plan(ctx, layout.scope, layout.entries(spec, spec.Peers))
	plan = append(plan, entries...)
	return append(plan, d.removeLinks(ctx, layout.unwanted, false)...), err
}

// Apply makes the kernel agree with spec. See [podweft.Driver]. Its errors are [podweft.ErrInvalid] for a Spec that makes no
// sense, of which nothing is then applied, and an [*podweft.OpError] for each object that failed; [podweft.ErrConflict]
// among them for a link or route of another program that stands in the way, and [podweft.ErrNotSupported] for a tunnel whose kernel
// module is missing. Peers that need no tunnel, by CrossSubnet, are then reachable all the same.
func (d *Driver) Apply(ctx context.Context, spec Spec) (podweft.Plan, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	plan, err := d.apply(ctx, spec)
	plan.Log(ctx, d.log)
	return plan, cmp.Or(err, plan.Err())
}

func (d *Driver) apply(ctx context.Context, spec Spec) (podweft.Plan, error) {
	given := spec
	spec.Peers = delta.InOrder(spec.Peers, comparePeers)
	if d.sameLinks(ctx, spec) {
		return d.change(ctx, spec)
	}
	last := d.last
	d.last = nil
	again := last != nil && last.spec.equal(spec)
	if !again {
		index, err := given.check() // its errors number the peers as their author did
		if err != nil {
			return nil, err
		}
		last = &applied{spec: spec, index: index}
	}
	moved := d.table.Moves()
	d.table.Follow(spec.linkNames(), fib.Scope{})
	plan, layout, err := d.links(ctx, spec, true)
	if err != nil {
		return plan, err
	}
	d.table.Follow(spec.linkNames(), layout.scope)
	var entries podweft.Plan
	if again && layout.equal(last.layout) {
		entries, err = d.table.Resync(ctx, layout.scope)
	} else {
		entries, err = d.table.Apply(ctx, layout.scope, layout.entries(spec, spec.Peers))
	}
	if err != nil {
		return append(plan, entries...), err
	}
	removed := d.removeLinks(ctx, layout.unwanted, true)
	if plan.Err() == nil && removed.Err() == nil {
		last.layout, last.moved = layout, moved
		d.last = last
	}
	return slices.Concat(plan, entries, removed), nil
}

// sameLinks reports whether only peers may differ from what was applied last, and what is remembered of the kernel holds.
func (d *Driver) sameLinks(ctx context.Context, spec Spec) bool {
	return podweft.PassOf(ctx).Watching() && d.last != nil && d.last.moved == d.table.Moves() &&
		d.last.spec.equalButPeers(spec) && d.table.Trusted(d.last.layout.scope)
}

func (s Spec) equal(o Spec) bool {
	return s.equalButPeers(o) && slices.EqualFunc(s.Peers, o.Peers, Peer.equal)
}

func (s Spec) equalButPeers(o Spec) bool {
	return s.Table == o.Table && s.CrossSubnet == o.CrossSubnet && slices.EqualFunc(s.Tunnels, o.Tunnels, Tunnel.equal)
}

func (t Tunnel) equal(o Tunnel) bool {
	anyDevice := nl.Link{}
	return t.link("", anyDevice) == o.link("", anyDevice) && t.Local == o.Local && t.Device == o.Device &&
		slices.Equal(t.Addresses, o.Addresses)
}

// change writes the difference between two lists of peers, and checks only what differs.
func (d *Driver) change(ctx context.Context, spec Spec) (podweft.Plan, error) {
	last := d.last
	d.last = nil
	removed, added := delta.Sorted(last.spec.Peers, spec.Peers, comparePeers, Peer.equal)
	var c checker
	for _, p := range removed {
		last.index.remove(p)
	}
	for _, p := range added {
		c.peer(func() string { return "Peers of " + p.Node }, p, last.index)
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	plan, err := d.table.Change(ctx, last.layout.scope,
		last.layout.entries(spec, removed), last.layout.entries(spec, added))
	if err == nil {
		last.spec = spec
		d.last = last
	}
	return plan, err
}

// entries is what the peers need in the kernel's tables.
func (l layout) entries(spec Spec, peers []Peer) []fib.Entry {
	entries := make([]fib.Entry, 0, len(peers))
	for _, p := range peers {
		if e := l.entry(spec, p); len(e.Routes) > 0 {
			entries = append(entries, e)
		}
	}
	return entries
}

// entry is one peer's. Where its tunnel could not be made, only what goes without is in it.
func (l layout) entry(spec Spec, p Peer) (e fib.Entry) {
	link, there := l.tunnels[p.Underlay.Is4()]
	direct := spec.CrossSubnet && slices.ContainsFunc(l.onLink, func(n netip.Prefix) bool { return n.Contains(p.Underlay) })
	for _, prefix := range p.Prefixes {
		r := fib.Route{Table: spec.Table, Prefix: prefix, Gateway: p.Underlay}
		switch {
		case direct && prefix.Addr().Is4() == p.Underlay.Is4():
			r.Link = l.devices[p.Underlay.Is4()]
		case !there:
			continue
		default:
			r.Link, r.Onlink = link, true
		}
		e.Routes = append(e.Routes, r)
	}
	return e
}

// Watch calls changed whenever somebody else may have changed what the driver made or depends on. See [podweft.Driver].
func (d *Driver) Watch(ctx context.Context, changed func()) error {
	return nl.Watch(ctx, d.netns, d.table.Events(changed), changed)
}

// Teardown removes everything that bears the driver's mark: its tunnels and all that leads through them.
func (d *Driver) Teardown(ctx context.Context) (podweft.Plan, error) {
	return d.Apply(ctx, Spec{})
}

// Stats are counters since New.
type Stats struct {
	// Listings is how often the kernel's tables were read whole. It stays put while nobody interferes.
	Listings uint64
}

// Stats returns the driver's counters.
func (d *Driver) Stats() Stats { return Stats{Listings: d.table.Reads()} }
