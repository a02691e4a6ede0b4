package ptp

import (
	"context"
	"sync"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// Driver keeps all ports of a node, and what leads to them, equal to a Spec. It is a [podweft.Driver]; give it to a
// [podweft.Loop]. It is safe for concurrent use.
//
// It looks after the node's side. What happens inside a pod is not seen from outside; a port that is gone, though, is attached
// anew, with all that belongs to it there.
type Driver struct {
	pods *Attacher
	path string // of the node's namespace

	mu       sync.Mutex
	reading  int // passes that are: whatever happens then may have been missed
	interest interest
}

// interest is what changes of the kernel matter.
type interest struct {
	names     map[string]bool
	links     map[int]bool
	routes    map[nl.RouteKey]nl.Route
	neighbors map[nl.NeighborKey]nl.Neighbor
}

// NewDriver opens the driver's sockets. It changes nothing in the kernel.
func NewDriver(cfg Config) (*Driver, error) {
	pods, err := New(cfg)
	if err != nil {
		return nil, err
	}
	return &Driver{pods: pods, path: cfg.NetNS}, nil
}

// Close frees the driver's sockets. Ports and routes stay, and so does traffic; use Teardown to remove them.
func (d *Driver) Close() error { return d.pods.Close() }

// Plan says what Apply would do. See [podweft.Driver].
func (d *Driver) Plan(ctx context.Context, spec Spec) (podweft.Plan, error) {
	p, err := d.compare(ctx, spec)
	if err != nil {
		return nil, err
	}
	return p.plan(), nil
}

// Apply makes the kernel agree with spec. See [podweft.Driver]. Its errors are [podweft.ErrInvalid] for a Spec that makes no sense,
// of which nothing is then applied, and an [*podweft.OpError] for each object that failed; [podweft.ErrConflict] among them for a
// link or route of another program that stands in the way.
func (d *Driver) Apply(ctx context.Context, spec Spec) (podweft.Plan, error) {
	p, err := d.compare(ctx, spec)
	if err != nil {
		return nil, err
	}
	p.write(ctx)
	plan := p.plan()
	plan.Log(ctx, d.pods.node.Log)
	return plan, plan.Err()
}

// Watch calls changed whenever somebody else may have changed what the driver made. See [podweft.Driver].
func (d *Driver) Watch(ctx context.Context, changed func()) error {
	hint := func(matters func(interest) bool) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.reading > 0 || matters(d.interest) {
			changed()
		}
	}
	return nl.Watch(ctx, d.path, nl.Events{
		Link: func(index int, name string) {
			hint(func(i interest) bool { return i.links[index] || i.names[name] })
		},
		Address: func(link int) { hint(func(i interest) bool { return i.links[link] }) },
		Neighbor: func(n nl.Neighbor, deleted bool) {
			hint(func(i interest) bool { want, ok := i.neighbors[n.NeighborKey]; return ok && (deleted || want != n) })
		},
		OfLink: func(link int) bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.reading > 0 || d.interest.links[link]
		},
		Route: func(r nl.Route, deleted bool) {
			hint(func(i interest) bool { want, ok := i.routes[r.RouteKey]; return ok && (deleted || !sameRoute(r, want)) })
		},
		Lost: changed,
	}, changed)
}

// Teardown removes everything that bears the owner's mark. Pods lose their links.
func (d *Driver) Teardown(ctx context.Context) (podweft.Plan, error) {
	links, err := d.pods.node.Marked(ctx, "veth")
	if err != nil {
		return nil, err
	}
	p, err := d.compare(ctx, Spec{})
	if err != nil {
		return nil, err
	}
	p.write(ctx)
	plan := p.plan()
	failed := d.pods.node.DeleteAll(ctx, links)
	for _, l := range links {
		c := podweft.Change{Op: podweft.Delete, Object: podweft.Named("link " + l.Name)}
		if failed != nil {
			c.Err = &podweft.OpError{Op: "delete", Object: c.Object, Err: failed}
		}
		plan = append(plan, c)
	}
	plan.Log(ctx, d.pods.node.Log)
	return plan, plan.Err()
}
