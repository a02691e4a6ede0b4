package bridge

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// loopback is lo's index in every namespace (LOOPBACK_IFINDEX, include/net/flow.h).
const loopback = 1

// pod is a pod's network namespace.
type pod struct {
	space
	file *os.File // names it in requests
}

func (a *Attacher) enter(p Port) (*pod, error) {
	file, err := a.openPod(p)
	if err != nil {
		return nil, err
	}
	pod := &pod{file: file}
	if err := pod.dial(p.NetNS); err != nil {
		pod.close()
		return nil, err
	}
	return pod, nil
}

// openPod opens the namespace, unless it is the node's own.
func (a *Attacher) openPod(p Port) (*os.File, error) {
	file, err := os.Open(p.NetNS)
	if err != nil {
		return nil, &podweft.OpError{Op: "open", Object: podweft.Named("network namespace"), Err: err}
	}
	info, err := file.Stat()
	if err == nil && os.SameFile(info, a.ns) {
		err = &podweft.FieldError{
			Field: "Port.NetNS", Value: p.NetNS, Problem: "is the node's own network namespace", Remedy: "give the pod's",
		}
	}
	if err == nil && !isNamespace(file) {
		err = &podweft.OpError{
			Op: "open", Object: podweft.Named("network namespace"), Err: fmt.Errorf("enter %s: %w", p.NetNS, unix.EINVAL),
		}
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// isNamespace tells a namespace from other files before anything is done for it.
func isNamespace(f *os.File) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

func (p *pod) dial(path string) error {
	conn, err := nl.Dial(path)
	p.space = space{conn, path}
	return err
}

func (p *pod) close() {
	if p.conn != nil {
		p.conn.Close()
	}
	p.file.Close()
}

// setup is what belongs into a pod's namespace.
type setup struct {
	peer      nl.Link // the pod's end of the pair
	up        []nl.Link
	addresses []nl.Address
	routes    []nl.Route
	neighbors []nl.Neighbor
}

// setup is what the pod needs to reach others.
func (v *veth) setup() setup {
	link := v.peer.Index
	s := setup{peer: v.peer, up: []nl.Link{{Index: loopback, Name: "lo"}, v.peer}}
	for _, a := range v.port.Addresses {
		s.addresses = append(s.addresses, nl.Address{Link: link, Prefix: a})
	}
	for _, g := range v.port.gateways(v.bridge) {
		s.neighbors = append(s.neighbors, nl.Neighbor{NeighborKey: nl.NeighborKey{Link: link, Addr: g}, MAC: v.br.MAC})
	}
	for _, r := range v.port.routes(v.bridge) {
		s.routes = append(s.routes, nl.Route{
			RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: r.Prefix},
			Protocol: unix.RTPROT_STATIC, Gateway: r.Via, Link: link,
		})
	}
	return s
}

// steps are in the order in which the kernel accepts them: a route needs its gateway's subnet, and that an address.
func (s setup) steps() (steps []step) {
	for _, l := range s.up {
		steps = append(steps, setUp(l))
	}
	for _, a := range s.addresses {
		steps = append(steps, addAddress(s.peer.Name, a))
	}
	for _, n := range s.neighbors {
		steps = append(steps, setNeighbor(s.peer.Name, n))
	}
	for _, r := range s.routes {
		steps = append(steps, addRoute(s.peer.Name, r))
	}
	return steps
}

// missing returns the part of s that the pod lacks. Something else in a part's place is [podweft.ErrConflict].
func (p *pod) missing(ctx context.Context, s setup) (setup, error) {
	for _, leave := range []func(context.Context, *setup) error{p.addresses, p.links, p.neighbors, p.routes} {
		if err := leave(ctx, &s); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (p *pod) links(_ context.Context, s *setup) error {
	var down []nl.Link
	for _, l := range s.up {
		have, err := p.conn.LinkAt(l.Index)
		if err != nil {
			return err
		}
		if l.Index == s.peer.Index && (have.MAC != l.MAC || have.MTU != l.MTU) {
			return taken(linkText(l), linkText(have))
		}
		if !have.Up {
			down = append(down, l)
		}
	}
	s.up = down
	return nil
}

func linkText(l nl.Link) string {
	return fmt.Sprintf("link %s mtu %d address %s", l.Name, l.MTU, l.MAC)
}

func (p *pod) addresses(_ context.Context, s *setup) error {
	have, err := p.conn.Addresses(s.peer.Index)
	if err != nil {
		return err
	}
	for _, h := range have {
		if !h.LinkScope && !slices.Contains(s.addresses, nl.Address{Link: h.Link, Prefix: h.Prefix}) {
			return taken("addresses of "+s.peer.Name, addressText(s.peer.Name, h))
		}
	}
	s.addresses = without(s.addresses, func(a nl.Address) bool {
		return slices.ContainsFunc(have, func(h nl.Address) bool { return h.Prefix == a.Prefix })
	})
	return nil
}

func (p *pod) neighbors(ctx context.Context, s *setup) error {
	have := map[nl.Neighbor]bool{}
	err := p.conn.Neighbors(ctx, s.peer.Index, func() { clear(have) }, func(n nl.Neighbor) { have[n] = true })
	s.neighbors = without(s.neighbors, func(n nl.Neighbor) bool { return have[n] })
	return err
}

func (p *pod) routes(ctx context.Context, s *setup) error {
	have := map[netip.Prefix][]nl.Route{}
	err := p.conn.Routes(ctx, func() { clear(have) }, func(r nl.Route) {
		if r.Table == nl.TableMain {
			have[r.Prefix] = append(have[r.Prefix], r)
		}
	})
	if err != nil {
		return err
	}
	same := func(a, b nl.Route) bool {
		return a.Gateway == b.Gateway && a.Link == b.Link && !a.Multipath && a.Nexthop == 0
	}
	lacking := without(s.routes, func(w nl.Route) bool {
		return slices.ContainsFunc(have[w.Prefix], func(h nl.Route) bool { return same(h, w) })
	})
	for _, w := range lacking {
		if there := have[w.Prefix]; len(there) > 0 {
			return taken(w.Format(s.peer.Name), there[0].Format(p.linkName(there[0].Link)))
		}
	}
	s.routes = lacking
	return nil
}

func (p *pod) linkName(index int) string {
	l, err := p.conn.LinkAt(index)
	if err != nil {
		return fmt.Sprintf("with index %d", index)
	}
	return l.Name
}

// taken says that have stands where want should be.
func taken(want, have string) error {
	return &podweft.OpError{
		Op: "create", Object: podweft.Named(want), Err: fmt.Errorf("%w: %s", podweft.ErrConflict, have),
	}
}

// without returns the elements that there does not accept; it leaves list as it is.
func without[T any](list []T, there func(T) bool) (rest []T) {
	for _, e := range list {
		if !there(e) {
			rest = append(rest, e)
		}
	}
	return rest
}
