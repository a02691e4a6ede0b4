package hostgw

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/fib"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/peers"
)

// ErrOffLink: the peer's address is on no network of the underlay interface, so it cannot be a gateway.
var ErrOffLink = errors.New("not on the link")

// DefaultOwner is the owner of an instance that does not name itself.
const DefaultOwner = "podweft"

// Config says how a Driver reaches the kernel. Its zero value is a driver for the caller's network namespace.
type Config struct {
	// Owner names the instance; empty means DefaultOwner. Its routes and nexthop objects are marked with a protocol and an id
	// range derived from it and from the package's name. Two instances in one namespace need two owners.
	Owner string
	// NetNS is the path of the network namespace to work in, such as /run/netns/blue; empty means the caller's.
	NetNS string
	// Logger gets every change at level debug, and a warning of another program's route at a prefix of ours that has a higher metric
	// and so does no harm; nil means silence.
	Logger *slog.Logger
}

// Driver keeps the routes to other nodes' pod subnets equal to a Spec. It is a podweft.Driver; give it to a podweft.Loop. It
// is safe for concurrent use.
type Driver struct {
	netns string
	log   *slog.Logger
	conn  *nl.Conn
	table *fib.Table
	keep  *peers.Keeper[Spec, Peer, link, owners]
}

// link is the underlay interface at one moment.
type link struct {
	index    int
	name     string
	networks []netip.Prefix // that it is on
}

// Equal reports whether peers need the same entries in both.
func (l link) Equal(o link) bool {
	return l.index == o.index && l.name == o.name && slices.Equal(l.networks, o.networks)
}

// Scope is the link, if there is one.
func (l link) Scope() fib.Scope {
	if l.index == 0 {
		return fib.Scope{}
	}
	return fib.Scope{Others: map[int]string{l.index: l.name}}
}

var _ podweft.Driver[Spec] = (*Driver)(nil)

// New opens the driver's sockets. It changes nothing in the kernel.
func New(cfg Config) (*Driver, error) {
	conn, err := nl.Dial(cfg.NetNS)
	if err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	d := &Driver{netns: cfg.NetNS, log: log, conn: conn, table: fib.New(conn, fib.MarkOf(Type+" "+cmp.Or(cfg.Owner, DefaultOwner)), log)}
	d.keep = peers.New(d.table, peers.Kind[Spec, Peer, link, owners]{
		Peers: func(s *Spec) *[]Peer { return &s.Peers }, Order: comparePeers, Same: (*Peer).equal,
		SameLinks: Spec.equalButPeers, Check: Spec.check, Recheck: owners.replace,
		Names: func(s Spec) []string { return []string{s.Device} }, Links: d.link, Entry: link.entry, Report: link.unreachable,
	})
	return d, nil
}

// Close frees the driver's sockets. The routes stay; use Teardown to remove them.
func (d *Driver) Close() error { return d.conn.Close() }

// Plan says what Apply would do. See [podweft.Driver].
func (d *Driver) Plan(ctx context.Context, spec Spec) (podweft.Plan, error) {
	return d.keep.Plan(ctx, spec)
}

// Apply makes the kernel agree with spec. See [podweft.Driver]. Its errors are [podweft.ErrInvalid] for a Spec that makes no
// sense, of which nothing is then applied, and an [*podweft.OpError] for each object that failed: [ErrOffLink] for a peer
// that cannot be a gateway, [podweft.ErrConflict] for a route of another program that stands in the way.
func (d *Driver) Apply(ctx context.Context, spec Spec) (podweft.Plan, error) {
	plan, err := d.keep.Apply(ctx, spec)
	plan.Log(ctx, d.log)
	return plan, cmp.Or(err, plan.Err())
}

func (s Spec) equalButPeers(o Spec) bool {
	return s.Table == o.Table && s.Metric == o.Metric && s.Device == o.Device
}

// link finds the underlay interface. There is none when spec wants none.
func (d *Driver) link(_ context.Context, spec Spec, _ bool) (podweft.Plan, link, error) {
	if spec.Device == "" {
		return nil, link{}, nil
	}
	device, err := d.conn.Link(spec.Device)
	if err != nil {
		return nil, link{}, err
	}
	addrs, err := d.conn.Addresses(device.Index)
	out := link{index: device.Index, name: device.Name}
	for _, a := range addrs {
		out.networks = append(out.networks, a.Prefix.Masked())
	}
	return nil, out, err
}

// reaches reports whether p can be a gateway.
func (l link) reaches(p Peer) bool {
	return slices.ContainsFunc(l.networks, func(n netip.Prefix) bool { return n.Contains(p.Underlay) })
}

// unreachable reports the peers that are off the link.
func (l link) unreachable(spec Spec) (plan podweft.Plan) {
	for _, p := range spec.Peers {
		if l.reaches(p) {
			continue
		}
		o := peerObject(p)
		plan = append(plan, podweft.Change{Op: podweft.Create, Object: o, Err: &podweft.OpError{
			Op: "reach", Object: o, Err: fmt.Errorf("%w of %s, which is on %v", ErrOffLink, l.name, l.networks),
		}})
	}
	return plan
}

// entry is what the peers need in the kernel's tables. One that is off the link needs nothing.
func (l link) entry(spec Spec, some []Peer) fib.Entry {
	e := fib.Entry{Routes: make([]fib.Route, 0, len(some))}
	for _, p := range some {
		if !l.reaches(p) {
			continue
		}
		for _, prefix := range p.Prefixes {
			e.Routes = append(e.Routes, fib.Route{
				Table: spec.Table, Metric: spec.Metric, Prefix: prefix, Gateway: p.Underlay, Link: l.index,
			})
		}
	}
	return e
}

// peerObject is an object of our plans: a peer that no route can be made for.
type peerObject Peer

func (p peerObject) ID() string { return fmt.Sprintf("peer %s for %v", p.Underlay, p.Prefixes) }

func (p peerObject) String() string {
	return fmt.Sprintf("peer %s (%s) for %v", p.Underlay, p.Node, p.Prefixes)
}

// Watch calls changed whenever somebody else may have changed what the driver made or depends on. See [podweft.Driver].
func (d *Driver) Watch(ctx context.Context, changed func()) error {
	return nl.Watch(ctx, d.netns, d.table.Events(changed), changed)
}

// Teardown removes everything that bears the driver's mark.
func (d *Driver) Teardown(ctx context.Context) (podweft.Plan, error) { return d.Apply(ctx, Spec{}) }

// Stats are counters since New.
type Stats struct {
	// Listings is how often the kernel's tables were read whole. It stays put while nobody interferes.
	Listings uint64
}

// Stats returns the driver's counters.
func (d *Driver) Stats() Stats { return Stats{Listings: d.table.Reads()} }
