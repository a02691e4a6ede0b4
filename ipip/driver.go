package ipip

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/fib"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/peers"
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
	// Logger gets every change at level debug, and a warning of another program's route at a prefix of ours that has a higher metric
	// and so does no harm; nil means silence.
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
	keep  *peers.Keeper[Spec, Peer, layout, *index]
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
	d := &Driver{
		netns: cfg.NetNS, alias: "podweft:" + owner, log: log,
		conn: conn, table: fib.New(conn, fib.MarkOf(Type+" "+owner), log),
	}
	d.keep = peers.New(d.table, peers.Kind[Spec, Peer, layout, *index]{
		Peers: func(s *Spec) *[]Peer { return &s.Peers }, Order: comparePeers, Same: (*Peer).equal,
		SameLinks: Spec.equalButPeers, Check: Spec.check, Recheck: (*index).replace,
		Names: Spec.linkNames, Links: d.links, Entry: layout.entry, Finish: d.removeLinks,
	})
	return d, nil
}

// Close frees the driver's sockets. The network stays up and goes on carrying traffic; use Teardown to remove it.
func (d *Driver) Close() error { return d.conn.Close() }

// Plan says what Apply would do. See [podweft.Driver].
func (d *Driver) Plan(ctx context.Context, spec Spec) (podweft.Plan, error) {
	return d.keep.Plan(ctx, spec)
}

// Apply makes the kernel agree with spec. See [podweft.Driver]. Its errors are [podweft.ErrInvalid] for a Spec that makes no
// sense, of which nothing is then applied, and an [*podweft.OpError] for each object that failed; [podweft.ErrConflict]
// among them for a link or route of another program that stands in the way, and [podweft.ErrNotSupported] for a tunnel whose kernel
// module is missing. Peers that need no tunnel, by CrossSubnet, are then reachable all the same.
func (d *Driver) Apply(ctx context.Context, spec Spec) (podweft.Plan, error) {
	plan, err := d.keep.Apply(ctx, spec)
	plan.Log(ctx, d.log)
	return plan, cmp.Or(err, plan.Err())
}

func (s Spec) equalButPeers(o Spec) bool {
	return s.Table == o.Table && s.CrossSubnet == o.CrossSubnet && slices.EqualFunc(s.Tunnels, o.Tunnels, Tunnel.equal)
}

func (t Tunnel) equal(o Tunnel) bool {
	anyDevice := nl.Link{}
	return t.link("", anyDevice) == o.link("", anyDevice) && t.Local == o.Local && t.Device == o.Device &&
		slices.Equal(t.Addresses, o.Addresses)
}

// replace takes the removed peers out of the index and checks the added ones against the rest.
func (x *index) replace(removed, added []Peer) error {
	for _, p := range removed {
		x.remove(p)
	}
	var c checker
	for _, p := range added {
		c.peer(func() string { return "Peers of " + p.Node }, p, x)
	}
	return c.err()
}

// entry is what the peers need in the kernel's tables.
func (l layout) entry(spec Spec, some []Peer) fib.Entry {
	e := fib.Entry{Routes: make([]fib.Route, 0, len(some))}
	for _, p := range some {
		l.add(&e, spec, p)
	}
	return e
}

// add puts what one peer needs into e. Where its tunnel could not be made, that is only what goes without.
func (l layout) add(e *fib.Entry, spec Spec, p Peer) {
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
			r.Link, r.Onlink, r.Source = link, p.Underlay.Is4(), l.source[p.Underlay.Is4()]
		}
		e.Routes = append(e.Routes, r)
	}
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
