package ipip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/fib"
	"github.com/podweft/podweft/internal/links"
	"github.com/podweft/podweft/internal/nl"
)

// The kinds of link, as rtnetlink calls them.
const (
	kindIPIP   = "ipip"   // IPv4 over IPv4
	kindIP6Tnl = "ip6tnl" // both over IPv6
)

// modules are the kernel modules that bring the kinds.
var modules = map[string]string{kindIPIP: "ipip", kindIP6Tnl: "ip6_tunnel"}

// layout is what the links and addresses of one moment mean for the peers' entries.
type layout struct {
	scope   fib.Scope
	tunnels map[bool]int        // index of the tunnel by whether its underlay is IPv4
	devices map[bool]int        // index of its underlay interface
	source  map[bool]netip.Addr // of outer packets, where the routes have to say it: over IPv6
	onLink  []netip.Prefix      // networks that the underlay interfaces are on

	unwanted []nl.Tunnel // tunnels of ours that are to go when no route leads through them any more
}

// Scope is the links that the layout is about.
func (l layout) Scope() fib.Scope { return l.scope }

// Equal reports whether peers need the same entries in both.
func (l layout) Equal(o layout) bool {
	return maps.Equal(l.scope.Others, o.scope.Others) && maps.Equal(l.tunnels, o.tunnels) &&
		maps.Equal(l.devices, o.devices) && maps.Equal(l.source, o.source) && slices.Equal(l.onLink, o.onLink)
}

// tunnel is an object of our plans.
type tunnel struct {
	name string
	text string
}

func (t tunnel) ID() string     { return "link " + t.name }
func (t tunnel) String() string { return t.text }

func newObject(t nl.Tunnel, device string) tunnel {
	text := fmt.Sprintf("link %s type %s", t.Name, t.Kind)
	if t.Outer.External {
		text += " external"
	} else if t.Outer.Protocol == 0 {
		text += " mode any"
	}
	for _, end := range []struct {
		word string
		addr netip.Addr
	}{{"local", t.Outer.Local}, {"remote", t.Outer.Remote}} {
		if end.addr.IsValid() {
			text += fmt.Sprintf(" %s %s", end.word, end.addr)
		}
	}
	if device != "" {
		text += " dev " + device
	}
	return tunnel{t.Name, fmt.Sprintf("%s mtu %d", text, t.MTU)}
}

// linkStep compares and, where Write is set, changes the links and addresses of one Spec.
type linkStep struct {
	links.Step
	ctx   context.Context
	out   layout
	known []nl.Link // all links of our kinds
}

func (d *Driver) newLinkStep(ctx context.Context, write bool) *linkStep {
	return &linkStep{ctx: ctx, Step: links.Step{Conn: d.conn, Table: d.table, Alias: d.alias, Write: write}}
}

// links makes the tunnels and their addresses as spec wants them, or says what would have to be done. A tunnel that cannot be
// made is missing in the layout.
func (d *Driver) links(ctx context.Context, spec Spec, write bool) (podweft.Plan, layout, error) {
	s := d.newLinkStep(ctx, write)
	s.out = layout{
		scope:   fib.Scope{Others: map[int]string{}},
		tunnels: map[bool]int{}, devices: map[bool]int{}, source: map[bool]netip.Addr{},
	}
	for _, kind := range []string{kindIPIP, kindIP6Tnl} {
		known, err := d.conn.LinksOfKind(ctx, kind)
		if err != nil {
			return nil, s.out, err
		}
		s.known = append(s.known, known...)
	}
	if err := s.sortOut(spec); err != nil {
		return s.Plan, s.out, err
	}
	for i, t := range spec.Tunnels {
		if err := s.tunnel(t, i-len(spec.Tunnels)); err != nil {
			return s.Plan, s.out, err
		}
	}
	return s.Plan, s.out, nil
}

// sortOut finds the tunnels of ours that spec does not name, and removes at once those that are in the way of one that it does.
func (s *linkStep) sortOut(spec Spec) error {
	for _, l := range s.known {
		if l.Alias != s.Alias || slices.ContainsFunc(spec.Tunnels, func(t Tunnel) bool { return t.name() == l.Name }) {
			continue
		}
		t, err := s.Conn.Tunnel(l.Name)
		switch {
		case errors.Is(err, nl.ErrNoLink): // it has gone meanwhile
		case err != nil:
			return err
		case slices.ContainsFunc(spec.Tunnels, func(wanted Tunnel) bool { return wanted.excludes(t) }):
			s.remove(t)
		default:
			s.out.unwanted = append(s.out.unwanted, t)
		}
	}
	return nil
}

// excludes reports whether the kernel may refuse t while there is x.
func (t Tunnel) excludes(x nl.Tunnel) bool {
	return x.Kind == t.kind() && (x.Outer.External || x.Outer.Local == t.Local)
}

// removeLinks removes the tunnels that are in nobody's way, or says that it would. It comes last: before that the routes have
// moved on to other links, so that none of their packets is lost, or were deleted one by one. With their link they would go
// without a word, and another driver that waits for their place would not hear of it.
func (d *Driver) removeLinks(ctx context.Context, of layout, write bool) podweft.Plan {
	s := d.newLinkStep(ctx, write)
	for _, t := range of.unwanted {
		s.remove(t)
	}
	return s.Plan
}

func (s *linkStep) remove(t nl.Tunnel) {
	s.Do(s.ctx, podweft.Delete, newObject(t, s.NameOf(t.Outer.Underlay)), "", func(b *nl.Batch) { b.DeleteLink(t.Index) })
}

// explain says in the last change of the plan, if it failed, what the kernel did not: which module is missing, or which link is in
// the way.
func (s *linkStep) explain(want nl.Tunnel) {
	err := s.Failed()
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		s.Fail(fmt.Errorf("%w: it lacks the module %s: %w", podweft.ErrNotSupported, modules[want.Kind], err))
	case errors.Is(err, unix.EEXIST):
		s.Fail(fmt.Errorf("%w: %w%s", podweft.ErrConflict, err, s.rival(want)))
	}
}

// rival names the tunnel that has the addresses of want, or the only place of its kind.
func (s *linkStep) rival(want nl.Tunnel) string {
	for _, l := range s.known {
		t, err := s.Conn.Tunnel(l.Name)
		if err == nil && t.Kind == want.Kind && t.Name != want.Name && t.Outer.Local == want.Outer.Local &&
			t.Outer.Underlay == want.Outer.Underlay && t.Outer.External == want.Outer.External {
			return ": " + newObject(t, s.NameOf(t.Outer.Underlay)).String()
		}
	}
	return ""
}

// tunnel makes one tunnel and its addresses. placeholder stands for its index in a plan for a link that is not there; it is
// negative, and those of several tunnels are in the order in which they would be made.
func (s *linkStep) tunnel(t Tunnel, placeholder int) error {
	device, err := s.Conn.Link(t.Device)
	if errors.Is(err, nl.ErrNoLink) {
		return s.stranded(t, err)
	}
	if err != nil {
		return err
	}
	if err := s.underlay(t, device); err != nil {
		return err
	}
	want := t.link(s.Alias, device)
	have, err := s.Conn.Tunnel(want.Name)
	switch {
	case errors.Is(err, nl.ErrNoLink):
		have = nl.Tunnel{}
	case err != nil:
		return err
	}
	index, err := s.converge(want, have, t.Device)
	if err != nil || index == 0 && s.Write {
		return err
	}
	index = cmp.Or(index, placeholder)
	s.found(t, index)
	return s.Addresses(s.ctx, t.name(), index, t.Addresses)
}

// found makes the tunnel part of the layout.
func (s *linkStep) found(t Tunnel, index int) {
	s.out.scope.Others[index] = t.name()
	s.out.tunnels[t.Local.Is4()] = index
	if t.Local.Is6() {
		s.out.source[false] = t.Local
	}
}

// underlay makes the underlay interface part of the layout, with the networks it is on, for CrossSubnet.
func (s *linkStep) underlay(t Tunnel, device nl.Link) error {
	s.out.scope.Others[device.Index] = device.Name
	s.out.devices[t.Local.Is4()] = device.Index
	on, err := s.Networks(device.Index)
	s.out.onLink = append(s.out.onLink, on...)
	return err
}

// stranded reports that t's underlay interface is not there. A tunnel that is there all the same goes on carrying traffic where the
// interface has only been renamed. So its entries are kept.
func (s *linkStep) stranded(t Tunnel, missing error) error {
	o := tunnel{t.name(), fmt.Sprintf("link %s type %s dev %s", t.name(), t.kind(), t.Device)}
	s.Refuse(podweft.Create, o, missing)
	have, err := s.Conn.Tunnel(t.name())
	if errors.Is(err, nl.ErrNoLink) || err == nil && have.Alias != s.Alias {
		return nil
	}
	if err != nil {
		return err
	}
	s.Plan[len(s.Plan)-1].Op = podweft.Update
	s.Fail(missing)
	s.found(t, have.Index)
	if have.Outer.Underlay == 0 {
		return nil // it has none, or may use any
	}
	device, err := s.Conn.LinkAt(have.Outer.Underlay)
	if errors.Is(err, nl.ErrNoLink) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.underlay(t, device)
}

func (t Tunnel) kind() string {
	if t.Local.Is4() {
		return kindIPIP
	}
	return kindIP6Tnl
}

// link is the tunnel as rtnetlink knows it.
func (t Tunnel) link(alias string, device nl.Link) nl.Tunnel {
	outer := nl.Outer{External: true}
	if t.Local.Is4() {
		outer = nl.Outer{Local: t.Local, Underlay: device.Index, Protocol: unix.IPPROTO_IPIP}
	}
	return nl.Tunnel{Outer: outer, Link: nl.Link{
		Name: t.name(), Alias: alias, Kind: t.kind(), MTU: cmp.Or(t.MTU, device.MTU-Overhead(t.Local)), Up: true,
	}}
}

// converge makes have into want and returns the link's index, or 0 where there is no such link (any more, or yet).
func (s *linkStep) converge(want, have nl.Tunnel, device string) (int, error) {
	if want.Outer.External {
		device = "" // such a link has none
	}
	o := newObject(want, device)
	switch {
	case have.Index == 0:
		s.Do(s.ctx, podweft.Create, o, "", func(b *nl.Batch) { b.AddTunnel(want) })
		s.explain(want)
		return s.IndexOf(want.Name)
	case have.Alias != want.Alias:
		s.Refuse(podweft.Create, o, links.Foreign(have.Link))
		return 0, nil
	case have.Kind != want.Kind || !changeable(want.Outer, have.Outer):
		note := "replaces " + newObject(have, s.NameOf(have.Outer.Underlay)).String()
		s.Do(s.ctx, podweft.Update, o, note, func(b *nl.Batch) {
			b.DeleteLink(have.Index)
			b.AddTunnel(want)
		})
		s.explain(want)
		return s.IndexOf(want.Name)
	}
	if c := s.changes(want, have); c.Note != "" {
		s.Do(s.ctx, podweft.Update, o, c.Note, c.Put)
		s.explain(want)
	}
	return have.Index, nil
}

// changeable reports whether the kernel can make have into want in place; see nl.Batch.ChangeTunnel.
func changeable(want, have nl.Outer) bool {
	have.Local, have.Underlay = want.Local, want.Underlay
	return have == want
}

// changes are what makes have into want in place.
func (s *linkStep) changes(want, have nl.Tunnel) (c links.Changes) {
	want.Index = have.Index
	if have.Outer != want.Outer {
		was := fmt.Sprintf("was local %s dev %s", have.Outer.Local, cmp.Or(s.NameOf(have.Outer.Underlay), "any"))
		c.Add(was, func(b *nl.Batch) { b.ChangeTunnel(want) })
	}
	c.Common(want.Link, have.Link)
	return c
}
