package ptp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/cable"
	"github.com/podweft/podweft/internal/nl"
)

// loopback is lo's index in every namespace (LOOPBACK_IFINDEX, include/net/flow.h), where IPv6 has its blackholes.
const loopback = 1

// state is what the node's namespace has.
type state struct {
	links     map[string]nl.Link // by name
	addresses map[nl.Address]bool
	neighbors map[nl.NeighborKey]nl.Neighbor
	routes    map[nl.RouteKey]nl.Route
}

func read(ctx context.Context, conn *nl.Conn) (s state, err error) {
	veths, err := conn.LinksOfKind(ctx, "veth")
	if err != nil {
		return s, err
	}
	s = state{links: map[string]nl.Link{}, addresses: map[nl.Address]bool{}, neighbors: map[nl.NeighborKey]nl.Neighbor{}}
	for _, l := range veths {
		s.links[l.Name] = l
	}
	addresses, err := conn.Addresses(0)
	if err != nil {
		return s, err
	}
	for _, a := range addresses {
		s.addresses[nl.Address{Link: a.Link, Prefix: a.Prefix}] = true
	}
	err = conn.Neighbors(ctx, 0, func() { clear(s.neighbors) }, func(n nl.Neighbor) { s.neighbors[n.NeighborKey] = n })
	if err != nil {
		return s, err
	}
	s.routes, err = readRoutes(ctx, conn)
	return s, err
}

// pass is a comparison of the kernel with a Spec, and then its writing.
type pass struct {
	pods  *Attacher
	have  state
	todo  []todo
	wants map[nl.RouteKey]nl.Route
}

// todo is a change with what makes it: requests, or a whole attachment.
type todo struct {
	podweft.Change
	request func(*nl.Batch)
	attach  func(context.Context) error
	fine    error
}

func (d *Driver) compare(ctx context.Context, spec Spec) (*pass, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	d.read(1)
	defer d.read(-1)
	have, err := read(ctx, d.pods.node.Conn)
	if err != nil {
		return nil, err
	}
	p := &pass{pods: d.pods, have: have, wants: map[nl.RouteKey]nl.Route{}}
	i := interest{names: map[string]bool{}, links: map[int]bool{}, neighbors: map[nl.NeighborKey]nl.Neighbor{}, routes: p.wants}
	for _, port := range spec.sorted(d.pods.node.Owner) {
		v := newVeth(d.pods.node, port)
		v.Have.Link = have.links[v.Host.Name]
		i.names[v.Host.Name] = true
		i.links[v.Have.Index] = true
		for _, n := range v.neighbors() {
			i.neighbors[n.NeighborKey] = n
		}
		p.port(ctx, v)
	}
	mine := p.ends()
	for _, l := range spec.local() {
		p.drop(l, protocolOf(d.pods.node.Owner), mine)
	}
	p.sweep(mine)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.interest = i
	return p, nil
}

// read notes that a pass begins or ends to read.
func (d *Driver) read(more int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reading += more
}

// port compares one.
func (p *pass) port(ctx context.Context, v *veth) {
	switch {
	case v.Have.Index == 0:
		p.attach(v)
		return
	case !cable.Ours(v.Have.Link, v.Host):
		p.refuse("link "+v.Host.Name, cable.Conflict(v.Have.Link))
		return
	}
	limit, err := v.LimitHost(ctx, p.pods.node)
	if err != nil {
		p.refuse("link "+v.Host.Name, err)
	}
	for _, s := range append(v.linkSteps(), limit...) {
		p.add(podweft.Update, s.Object, "", todo{request: s.Request})
	}
	for _, a := range v.addresses() {
		if !p.have.addresses[a] {
			s := cable.AddAddress(v.Host.Name, a)
			p.add(podweft.Create, s.Object, "", todo{request: s.Request, fine: s.Fine})
		}
	}
	for _, n := range v.neighbors() {
		was, known := p.have.neighbors[n.NeighborKey]
		if known && was == n {
			continue
		}
		op, note := podweft.Create, ""
		if known {
			op, note = podweft.Update, "was "+was.MAC.String()
		}
		s := cable.SetNeighbor(v.Host.Name, n)
		p.add(op, s.Object, note, todo{request: s.Request})
	}
	for _, r := range v.routes() {
		p.route(r, v.Host.Name)
	}
}

// attach makes a port that is not there. Its routes come with it.
func (p *pass) attach(v *veth) {
	for _, r := range v.routes() {
		p.wants[r.RouteKey] = r
	}
	o := fmt.Sprintf("link %s peer %s of %s %v", v.Host.Name, v.Peer.Name, v.port.Container, v.port.Addresses)
	p.add(podweft.Create, o, "", todo{attach: func(ctx context.Context) error {
		_, err := p.pods.attach(ctx, v.port)
		return err
	}})
}

// route compares one of the node's.
func (p *pass) route(want nl.Route, dev string) {
	p.wants[want.RouteKey] = want
	have, there := p.have.routes[want.RouteKey]
	text := routeText(want, dev)
	switch {
	case !there:
		p.add(podweft.Create, text, "", todo{request: func(b *nl.Batch) { b.AddRoute(want) }})
	case sameRoute(have, want):
	case have.Protocol != want.Protocol:
		p.refuse(text, conflict(p.pods.node.Conn, have))
	default:
		p.add(podweft.Update, text, "was "+routeText(have, p.nameOf(have.Link)), todo{request: func(b *nl.Batch) { b.ReplaceRoute(want) }})
	}
}

// drop compares the blackhole of what is local. That of a single address has the key of a pod's route, which may be there though the Spec
// names no such port: it is a plugin's, and stays. When it goes, with the pod's link, the blackhole comes.
func (p *pass) drop(local netip.Prefix, protocol uint8, mine map[int]bool) {
	want := nl.Route{RouteKey: keyOf(local), Protocol: protocol, Type: unix.RTN_BLACKHOLE}
	have, there := p.have.routes[want.RouteKey]
	if there && local.IsSingleIP() && have.Protocol == protocol && !mine[have.Link] {
		p.wants[want.RouteKey] = have
		return
	}
	p.route(want, "")
	if last := len(p.todo) - 1; !there && local.IsSingleIP() {
		p.todo[last].fine = unix.EEXIST // a plugin was faster: its route is a change, and we look again
	}
}

// ends are the links that routes of ours lead to, if they are the Spec's: those of its ports, and what blackholes have for one.
func (p *pass) ends() map[int]bool {
	mine := map[int]bool{loopback: true, 0: true}
	for _, r := range p.wants {
		mine[r.Link] = true
	}
	return mine
}

// sweep deletes routes of ours that nothing asks for: blackholes, and those to a port that it has no address for any more. Routes to
// ports that are not in the Spec are a plugin's, who may have made them a moment ago.
func (p *pass) sweep(mine map[int]bool) {
	protocol := protocolOf(p.pods.node.Owner)
	var stale []nl.Route
	for k, r := range p.have.routes {
		if _, wanted := p.wants[k]; !wanted && r.Protocol == protocol && mine[r.Link] {
			stale = append(stale, r)
		}
	}
	slices.SortFunc(stale, func(a, b nl.Route) int { return nl.CompareRouteKeys(a.RouteKey, b.RouteKey) })
	for _, r := range stale {
		p.add(podweft.Delete, routeText(r, p.nameOf(r.Link)), "", todo{request: func(b *nl.Batch) { b.DeleteRoute(r) }, fine: unix.ESRCH})
	}
}

func routeText(r nl.Route, dev string) string {
	if r.Type == unix.RTN_BLACKHOLE {
		return "blackhole " + r.Format("")
	}
	return r.Format(dev)
}

func (p *pass) nameOf(link int) string {
	for _, l := range p.have.links {
		if l.Index == link {
			return l.Name
		}
	}
	return ""
}

// add puts a change into the plan. Its object is known by its text: what failed is held back until it is another wish.
func (p *pass) add(op podweft.Op, object, note string, t todo) {
	t.Change = podweft.Change{Op: op, Object: podweft.Named(object), Note: note}
	p.todo = append(p.todo, t)
}

// refuse puts a change into the plan that cannot be made.
func (p *pass) refuse(object string, err error) {
	p.add(podweft.Create, object, "", todo{})
	p.todo[len(p.todo)-1].fail(err)
}

func (p *pass) plan() podweft.Plan {
	var plan podweft.Plan
	for _, t := range p.todo {
		plan = append(plan, t.Change)
	}
	return plan
}

// write makes the changes: first the ports that are gone, then everything else at once.
func (p *pass) write(ctx context.Context) {
	var batch nl.Batch
	var of []int // todo by request
	for i := range p.todo {
		t := &p.todo[i]
		switch {
		case t.Err != nil:
		case podweft.PassOf(ctx).Held(t.Object):
			t.fail(podweft.ErrHeld)
		case t.attach != nil:
			t.fail(t.attach(ctx))
		default:
			t.request(&batch)
			for len(of) < batch.Len() {
				of = append(of, i)
			}
		}
	}
	for i, err := range p.pods.node.Conn.Do(ctx, &batch) {
		if t := &p.todo[of[i]]; t.Err == nil && (t.fine == nil || !errors.Is(err, t.fine)) {
			t.fail(err)
		}
	}
}

func (t *todo) fail(err error) {
	if err != nil {
		t.Err = &podweft.OpError{Op: t.Op.String(), Object: t.Object, Err: err}
	}
}

var _ podweft.Driver[Spec] = (*Driver)(nil)
