package ptp

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/cable"
	"github.com/podweft/podweft/internal/nl"
)

// Attacher attaches pods to one node. It keeps no state but its sockets: what was attached is in the kernel, and any Attacher of
// the same owner can detach it. It is safe for concurrent use.
type Attacher struct{ node *cable.Node }

// New opens the attacher's sockets. It changes nothing in the kernel.
func New(cfg Config) (*Attacher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	node, err := cable.OpenNode(cfg.NetNS, cmp.Or(cfg.Owner, DefaultOwner), cfg.Logger)
	if err != nil {
		return nil, err
	}
	return &Attacher{node}, nil
}

// Close frees the attacher's sockets. Ports stay.
func (a *Attacher) Close() error { return a.node.Close() }

// Attach gives the pod of p its port. When it returns, packets flow. When it fails it leaves nothing behind.
//
// A port that is attached already stays as it is; what an Attach that was killed did not come to, or what somebody took
// away since, is completed. Anything in its place that is not this port, or not like p, is left alone: the error is then
// [podweft.ErrConflict] and names it. Other errors are [podweft.ErrInvalid] for values that make no sense, and an
// [*podweft.OpError] with the kernel's word.
//
// A CNI plugin has to refuse a second ADD: where [Attacher.Check] finds nothing wrong before, the port is there.
func (a *Attacher) Attach(ctx context.Context, p Port) (Attached, error) {
	p = p.withDefaults(a.node.Owner)
	if err := p.Validate(); err != nil {
		return Attached{}, err
	}
	at, err := a.attach(ctx, p)
	if err != nil {
		return Attached{}, fmt.Errorf("port %s/%s: %w", p.Container, p.Name, err)
	}
	return at, nil
}

func (a *Attacher) attach(ctx context.Context, p Port) (at Attached, err error) {
	pod, err := a.node.Open(p.NetNS)
	if err != nil {
		return at, err
	}
	defer pod.Close()
	v := newVeth(a.node, p)
	made, err := v.Plug(ctx, a.node, pod)
	if err == nil {
		at, err = a.connect(ctx, v, pod, made)
	}
	if err != nil && made {
		err = errors.Join(err, a.node.Undo(context.WithoutCancel(ctx), v.Host))
	}
	return at, err
}

// connect makes the pair of a port work. The node's route comes last: it is what makes the pod reachable, and may take an address
// from another port of ours, which an Attach that fails could not give back.
func (a *Attacher) connect(ctx context.Context, v *veth, pod *cable.Pod, made bool) (at Attached, err error) {
	want := v.setup()
	lacking := want
	if !made {
		if lacking, err = pod.Lacking(ctx, want); err != nil {
			return at, err
		}
	}
	limit, err := v.LimitHost(ctx, a.node)
	if err != nil {
		return at, err
	}
	steps := append(v.linkSteps(), limit...)
	for _, addr := range v.addresses() {
		steps = append(steps, cable.AddAddress(v.Host.Name, addr))
	}
	for _, n := range v.neighbors() {
		steps = append(steps, cable.SetNeighbor(v.Host.Name, n))
	}
	if err := a.node.Do(ctx, steps...); err != nil {
		return at, err
	}
	if err := pod.Complete(ctx, want, lacking); err != nil {
		return at, err
	}
	host, err := a.node.Operational(ctx, v.Host.Name)
	if err != nil {
		return at, err
	}
	if _, err := pod.Operational(ctx, v.Peer.Name); err != nil { // else its answers would be dropped
		return at, err
	}
	for _, own := range v.port.Addresses {
		if err := pod.Reachable(ctx, v.Peer.Index, own); err != nil {
			return at, err
		}
	}
	if err := a.lead(ctx, v); err != nil {
		return at, err
	}
	if made {
		a.node.Log.DebugContext(ctx, "port attached", "link", v.Host.Name, "container", v.port.Container, "netns", v.port.NetNS)
	}
	return Attached{Host: asLink(host), Pod: asLink(v.Peer)}, nil
}

func asLink(l nl.Link) Link { return Link{Index: l.Index, Name: l.Name, MAC: l.MAC, MTU: l.MTU} }

// lead makes the node's routes to the pod. Usually nothing is there, and to try is cheaper than to look. No route of ours gives way
// where another one cannot be had.
func (a *Attacher) lead(ctx context.Context, v *veth) error {
	var batch nl.Batch
	routes := v.routes()
	for _, r := range routes {
		batch.AddRoute(r)
	}
	var taken []nl.Route
	for i, err := range a.node.Conn.Do(ctx, &batch) {
		switch {
		case errors.Is(err, unix.EEXIST):
			taken = append(taken, routes[i])
		case err != nil:
			return &podweft.OpError{Op: "create", Object: podweft.Named(routes[i].Format(v.Host.Name)), Err: err}
		}
	}
	if len(taken) == 0 {
		return nil
	}
	have, err := readRoutes(ctx, a.node.Conn)
	if err != nil {
		return err
	}
	var steps []cable.Step
	var errs []error
	for _, r := range taken {
		there, ok := have[r.RouteKey]
		if ok && there.Protocol != v.protocol {
			errs = append(errs, &podweft.OpError{Op: "create", Object: podweft.Named(r.Format(v.Host.Name)), Err: conflict(a.node.Conn, there)})
		} else if !ok || !sameRoute(there, r) {
			steps = append(steps, cable.Step{
				Op: "update", Object: r.Format(v.Host.Name), Request: func(b *nl.Batch) { b.ReplaceRoute(r) },
			})
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return a.node.Do(ctx, steps...)
}

// readRoutes are the routes of the main table. Of several at one key, as IPv6 may have, it is any.
func readRoutes(ctx context.Context, conn *nl.Conn) (map[nl.RouteKey]nl.Route, error) {
	all := map[nl.RouteKey]nl.Route{}
	err := conn.Routes(ctx, func() { clear(all) }, func(r nl.Route) {
		if r.Table == nl.TableMain {
			all[r.RouteKey] = r
		}
	})
	return all, err
}

func sameRoute(a, b nl.Route) bool {
	return a.Type == b.Type && a.Protocol == b.Protocol && !a.Multipath && a.Nexthop == 0 && !a.Gateway.IsValid() &&
		(a.Link == b.Link || b.Link == 0) // a blackhole of IPv6 has the loopback link
}

// conflict names another program's route.
func conflict(conn *nl.Conn, r nl.Route) error {
	dev := ""
	if l, err := conn.LinkAt(r.Link); err == nil {
		dev = l.Name
	}
	return fmt.Errorf("%w: %s proto %d", podweft.ErrConflict, r.Format(dev), r.Protocol)
}

// Detach removes the port that p.Container and p.Name identify; everything else in p may be missing, but for a HostName of
// one's own. A port that is gone, or whose pod's namespace is, is success. A link in its place that does not bear its mark
// stays, and is [podweft.ErrConflict].
//
// It waits for the kernel, about 20 ms.
func (a *Attacher) Detach(ctx context.Context, p Port) error { return a.remove(ctx, p, a.node.Delete) }

// Retire does what Detach does, but for the wait: no packet passes the port any more and the pod can be attached anew, while
// the two links stay, down and under another name, until somebody calls [Attacher.Sweep] or the pod's namespace goes.
func (a *Attacher) Retire(ctx context.Context, p Port) error { return a.remove(ctx, p, a.node.Retire) }

// Sweep deletes the links that were retired, in one go, whichever Attacher of the owner did so.
func (a *Attacher) Sweep(ctx context.Context) error { return a.node.Sweep(ctx) }

// remove takes the pair of the port away, by taking its host end.
func (a *Attacher) remove(ctx context.Context, p Port, take func(context.Context, nl.Link) error) error {
	p = p.withDefaults(a.node.Owner)
	var f cable.Fields
	if f.ID(p.id()); f.Err() != nil {
		return f.Err()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := a.node.Unplug(ctx, a.node.HostEnd(p.id(), 0), take); err != nil {
		return fmt.Errorf("port %s/%s: %w", p.Container, p.Name, err)
	}
	return nil
}

// DetachAll is Detach of many ports, for which the kernel waits once: a thousand take a tenth of what one by one would.
func (a *Attacher) DetachAll(ctx context.Context, ports []Port) error {
	var all []nl.Link
	var wrong cable.Fields
	for _, p := range ports {
		p = p.withDefaults(a.node.Owner)
		var f cable.Fields
		if f.ID(p.id()); f.Err() != nil {
			wrong.ID(p.id())
			continue
		}
		all = append(all, a.node.HostEnd(p.id(), 0))
	}
	return errors.Join(wrong.Err(), a.node.UnplugAll(ctx, all))
}

// Ports lists the owner's ports on this node: for each what identifies it, and HostName.
func (a *Attacher) Ports(ctx context.Context) ([]Port, error) {
	ids, err := a.node.Ports(ctx)
	var ports []Port
	for _, id := range ids {
		ports = append(ports, Port{Container: id.Container, Name: id.Name, HostName: id.HostName})
	}
	return ports, err
}

// Teardown removes all ports that bear the owner's mark. Pods lose their links.
func (a *Attacher) Teardown(ctx context.Context) error {
	all, err := a.node.Marked(ctx, "veth")
	if err != nil {
		return err
	}
	return a.node.DeleteAll(ctx, all)
}
