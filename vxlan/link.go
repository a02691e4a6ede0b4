package vxlan

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/fib"
	"github.com/podweft/podweft/internal/links"
	"github.com/podweft/podweft/internal/nl"
)

// layout is what the links and addresses of one moment mean for the peers' entries.
type layout struct {
	scope   fib.Scope
	vteps   map[bool]int   // index of the VTEP by whether its underlay is IPv4
	devices map[bool]int   // index of its underlay interface
	onLink  []netip.Prefix // networks that the underlay interfaces are on

	unwanted []nl.Link // VTEPs of ours that are to go when no route leads through them any more
}

// Scope is the links that the layout is about.
func (l layout) Scope() fib.Scope { return l.scope }

// Equal reports whether peers need the same entries in both.
func (l layout) Equal(o layout) bool {
	return maps.Equal(l.scope.Own, o.scope.Own) && maps.Equal(l.scope.Others, o.scope.Others) &&
		maps.Equal(l.vteps, o.vteps) && maps.Equal(l.devices, o.devices) && slices.Equal(l.onLink, o.onLink)
}

// vtep is an object of our plans.
type vtep struct {
	name string
	text string
}

func (v vtep) ID() string     { return "link " + v.name }
func (v vtep) String() string { return v.text }

func newObject(l nl.Link, device string) vtep {
	x := l.VXLAN
	text := fmt.Sprintf("link %s type vxlan id %d local %s dev %s dstport %d mtu %d address %s", l.Name, x.VNI, x.Local, device, x.Port, l.MTU, l.MAC)
	for _, f := range []struct {
		on   bool
		word string
	}{{x.Learning, " learning"}, {x.GBP, " gbp"}, {x.Checksum && x.Local.Is4(), " udpcsum"}} {
		if f.on {
			text += f.word
		}
	}
	return vtep{l.Name, text}
}

// linkStep compares and, where Write is set, changes the links and addresses of one Spec.
type linkStep struct {
	links.Step
	d     *Driver
	ctx   context.Context
	out   layout
	known []nl.Link // all VXLAN links
}

func (d *Driver) newLinkStep(ctx context.Context, write bool) *linkStep {
	return &linkStep{d: d, ctx: ctx, Step: links.Step{Conn: d.conn, Table: d.table, Alias: d.alias, Write: write}}
}

// links makes the VTEPs and their addresses as spec wants them, or says what would have to be done. A VTEP that cannot be
// made is missing in the layout.
func (d *Driver) links(ctx context.Context, spec Spec, write bool) (podweft.Plan, layout, error) {
	s := d.newLinkStep(ctx, write)
	s.out = layout{
		scope: fib.Scope{Own: map[int]string{}, Others: map[int]string{}},
		vteps: map[bool]int{}, devices: map[bool]int{},
	}
	var err error
	if s.known, err = d.conn.LinksOfKind(ctx, "vxlan"); err != nil {
		return nil, s.out, err
	}
	unwanted := s.unwanted(spec)
	for _, l := range unwanted {
		if slices.ContainsFunc(spec.VTEPs, func(v VTEP) bool { return v.excludes(l.VXLAN) }) {
			s.remove(l)
		} else {
			s.out.unwanted = append(s.out.unwanted, l)
		}
	}
	for i, v := range spec.VTEPs {
		if err := s.vtep(v, i-len(spec.VTEPs)); err != nil {
			return s.Plan, s.out, err
		}
	}
	return s.Plan, s.out, nil
}

// removeLinks removes the VTEPs that are in nobody's way, or says that it would. It comes last: before that the routes have
// moved on to other links, so that none of their packets is lost, or were deleted one by one. With their link they would go
// without a word, and another driver that waits for their place would not hear of it.
func (d *Driver) removeLinks(ctx context.Context, of layout, write bool) podweft.Plan {
	s := d.newLinkStep(ctx, write)
	for _, l := range of.unwanted {
		s.remove(l)
	}
	return s.Plan
}

func (s *linkStep) remove(l nl.Link) {
	s.Do(s.ctx, podweft.Delete, newObject(l, s.NameOf(l.VXLAN.Underlay)), "", func(b *nl.Batch) { b.DeleteLink(l.Index) })
}

// unwanted are the VTEPs of ours that spec does not name: those of another VNI, or of a family that is gone.
func (s *linkStep) unwanted(spec Spec) []nl.Link {
	return slices.DeleteFunc(slices.Clone(s.known), func(l nl.Link) bool {
		return l.Alias != s.Alias || slices.ContainsFunc(spec.VTEPs, func(v VTEP) bool { return v.name() == l.Name })
	})
}

// excludes reports whether v cannot be made while there is a VTEP x: their UDP port is the same, but not what they expect of
// it (vxlan_vni_in_use and vxlan_sock_add in drivers/net/vxlan/vxlan_core.c).
func (v VTEP) excludes(x nl.VXLAN) bool {
	return v.port() == x.Port && v.Local.Is4() == x.Local.Is4() && (v.VNI == x.VNI || v.GBP != x.GBP)
}

// explain names the links that may have kept a VTEP from being made. The kernel only says that something exists, or, when the VTEP
// is brought up, that its port is in use: by one without GBP where this one has it, for example, or by another program.
func (s *linkStep) explain() {
	err := s.Failed()
	if !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EADDRINUSE) {
		return
	}
	var others []string
	for _, l := range s.known {
		if l.Alias != s.Alias {
			others = append(others, newObject(l, s.NameOf(l.VXLAN.Underlay)).String())
		}
	}
	if len(others) == 0 {
		s.Fail(fmt.Errorf("%w: %w", podweft.ErrConflict, err))
		return
	}
	s.Fail(fmt.Errorf("%w: %w: one of %s", podweft.ErrConflict, err, strings.Join(others, "; ")))
}

// vtep makes one VTEP and its addresses. placeholder stands for its index in a plan for a link that is not there;
// it is negative, and those of several VTEPs are in the order in which they would be made.
func (s *linkStep) vtep(v VTEP, placeholder int) error {
	device, err := s.Conn.Link(v.Device)
	if errors.Is(err, nl.ErrNoLink) {
		return s.stranded(v, err)
	}
	if err != nil {
		return err
	}
	want := v.link(s.Alias, device)
	have, err := s.Conn.Link(want.Name)
	switch {
	case errors.Is(err, nl.ErrNoLink):
		have = nl.Link{}
	case err != nil:
		return err
	}
	index, err := s.converge(want, have, v.Device)
	if err != nil {
		return err
	}
	if index == 0 && s.Write {
		return nil
	}
	if index == 0 {
		index = placeholder
	}
	s.found(v, index, device)
	return errors.Join(s.offload(v, index > 0), s.Addresses(s.ctx, v.name(), index, v.Addresses), s.networks(device.Index))
}

// found makes the VTEP part of the layout.
func (s *linkStep) found(v VTEP, index int, device nl.Link) {
	s.out.scope.Own[index] = v.name()
	s.out.scope.Others[device.Index] = device.Name
	s.out.vteps[v.Local.Is4()] = index
	s.out.devices[v.Local.Is4()] = device.Index
}

// stranded reports that v's underlay interface is not there. A VTEP that is there all the same goes on carrying traffic:
// the interface has only been renamed, else the VTEP had been deleted with it (vxlan_netdevice_event in
// drivers/net/vxlan/vxlan_core.c). So its entries are kept.
func (s *linkStep) stranded(v VTEP, missing error) error {
	o := vtep{v.name(), "link " + v.name() + " type vxlan dev " + v.Device}
	s.Refuse(podweft.Create, o, missing)
	at := slices.IndexFunc(s.known, func(l nl.Link) bool { return l.Name == v.name() && l.Alias == s.Alias })
	if at < 0 {
		return nil
	}
	have := s.known[at]
	device, err := s.Conn.LinkAt(have.VXLAN.Underlay)
	if errors.Is(err, nl.ErrNoLink) {
		return nil
	}
	if err != nil {
		return err
	}
	s.Plan[len(s.Plan)-1].Op = podweft.Update
	s.Fail(missing)
	s.found(v, have.Index, device)
	return s.networks(device.Index)
}

// link is the VTEP as rtnetlink knows it.
func (v VTEP) link(alias string, device nl.Link) nl.Link {
	mtu := v.MTU
	if mtu == 0 {
		mtu = device.MTU - Overhead(v.Local)
	}
	return nl.Link{
		Name: v.name(), Alias: alias, Kind: "vxlan", MAC: v.MAC, MTU: mtu, Up: true,
		VXLAN: nl.VXLAN{
			VNI: v.VNI, Port: v.port(), Local: v.Local, Underlay: device.Index,
			Learning: v.Learning, GBP: v.GBP, Checksum: v.Checksum || v.Local.Is6(),
		},
	}
}

// converge makes have into want and returns the link's index, or 0 where there is no such link (any more, or yet).
func (s *linkStep) converge(want, have nl.Link, device string) (int, error) {
	if have.VXLAN.Checksum {
		// Nobody is harmed by more checksums than are asked for, while a link that is made anew loses packets. flannel's, when they
		// are taken over, send them.
		want.VXLAN.Checksum = true
	}
	o := newObject(want, device)
	switch {
	case have.Index == 0:
		s.Do(s.ctx, podweft.Create, o, "", func(b *nl.Batch) { b.AddVXLAN(want) })
		s.explain()
		return s.IndexOf(want.Name)
	case have.Alias != want.Alias || have.Kind != want.Kind:
		s.Refuse(podweft.Create, o, links.Foreign(have))
		return 0, nil
	case have.VXLAN != want.VXLAN && !changeable(want.VXLAN, have.VXLAN):
		note := "replaces " + newObject(have, s.NameOf(have.VXLAN.Underlay)).String()
		s.Do(s.ctx, podweft.Update, o, note, func(b *nl.Batch) {
			b.DeleteLink(have.Index)
			b.AddVXLAN(want)
		})
		s.explain()
		return s.IndexOf(want.Name)
	}
	if c := changes(want, have); c.Note != "" {
		s.Do(s.ctx, podweft.Update, o, c.Note, c.Put)
		s.explain()
	}
	return have.Index, nil
}

// changeable reports whether the kernel can make have into want in place. It takes another local address only of the same
// family, and no other VNI, port, GBP or checksum setting (vxlan_nl2conf in drivers/net/vxlan/vxlan_core.c).
func changeable(want, have nl.VXLAN) bool {
	same := have
	same.Underlay, same.Learning = want.Underlay, want.Learning
	if have.Local.Is4() == want.Local.Is4() {
		same.Local = want.Local
	}
	return same == want
}

// changes are what makes have into want in place.
func changes(want, have nl.Link) (c links.Changes) {
	want.Index = have.Index
	if have.VXLAN != want.VXLAN {
		c.Add(fmt.Sprintf("was local %s", have.VXLAN.Local), func(b *nl.Batch) { b.ChangeVXLAN(want) })
	}
	if have.MAC != want.MAC {
		c.Add("was address "+have.MAC.String(), func(b *nl.Batch) { b.SetMAC(have.Index, want.MAC) })
	}
	c.Common(want, have)
	return c
}

// networks notes which networks the underlay interface is on, for DirectRouting.
func (s *linkStep) networks(device int) error {
	on, err := s.Networks(device)
	s.out.onLink = append(s.out.onLink, on...)
	return err
}
