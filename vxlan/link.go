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

func (l layout) equal(o layout) bool {
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

// address is an object of our plans.
type address struct {
	prefix netip.Prefix
	dev    string
}

func (a address) ID() string     { return a.String() }
func (a address) String() string { return fmt.Sprintf("address %s dev %s", a.prefix, a.dev) }

// linkStep compares and, where write is set, changes the links and addresses of one Spec.
type linkStep struct {
	d     *Driver
	ctx   context.Context
	write bool
	plan  podweft.Plan
	out   layout
	known []nl.Link // all VXLAN links
}

// links makes the VTEPs and their addresses as spec wants them, or says what would have to be done. A VTEP that cannot be
// made is missing in the layout.
func (d *Driver) links(ctx context.Context, spec Spec, write bool) (podweft.Plan, layout, error) {
	s := &linkStep{d: d, ctx: ctx, write: write, out: layout{
		scope: fib.Scope{Own: map[int]string{}, Others: map[int]string{}},
		vteps: map[bool]int{}, devices: map[bool]int{},
	}}
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
			return s.plan, s.out, err
		}
	}
	return s.plan, s.out, nil
}

// removeLinks removes the VTEPs that are in nobody's way, or says that it would. It comes last: before that the routes have
// moved on to other links, so that none of their packets is lost, or were deleted one by one. With their link they would go
// without a word, and another driver that waits for their place would not hear of it.
func (d *Driver) removeLinks(ctx context.Context, unwanted []nl.Link, write bool) podweft.Plan {
	s := &linkStep{d: d, ctx: ctx, write: write}
	for _, l := range unwanted {
		s.remove(l)
	}
	return s.plan
}

func (s *linkStep) remove(l nl.Link) {
	s.do(podweft.Delete, newObject(l, s.deviceName(l.VXLAN.Underlay)), "", func(b *nl.Batch) { b.DeleteLink(l.Index) })
}

// unwanted are the VTEPs of ours that spec does not name: those of another VNI, or of a family that is gone.
func (s *linkStep) unwanted(spec Spec) []nl.Link {
	return slices.DeleteFunc(slices.Clone(s.known), func(l nl.Link) bool {
		return l.Alias != s.d.alias || slices.ContainsFunc(spec.VTEPs, func(v VTEP) bool { return v.name() == l.Name })
	})
}

// excludes reports whether v cannot be made while there is a VTEP x: their UDP port is the same, but not what they expect of
// it (vxlan_vni_in_use and vxlan_sock_add in drivers/net/vxlan/vxlan_core.c).
func (v VTEP) excludes(x nl.VXLAN) bool {
	return v.port() == x.Port && v.Local.Is4() == x.Local.Is4() && (v.VNI == x.VNI || v.GBP != x.GBP)
}

// do adds a change to the plan and makes it.
func (s *linkStep) do(op podweft.Op, o podweft.Object, note string, requests func(*nl.Batch)) {
	s.try(op, o, note, func() error {
		var batch nl.Batch
		requests(&batch)
		for _, err := range s.d.conn.Do(s.ctx, &batch) {
			if err != nil && !(op == podweft.Delete && errors.Is(err, unix.ENODEV)) {
				return s.explain(err)
			}
		}
		return nil
	})
}

// try is do for a change that is made by other means than rtnetlink.
func (s *linkStep) try(op podweft.Op, o podweft.Object, note string, change func() error) {
	s.plan = append(s.plan, podweft.Change{Op: op, Object: o, Note: note})
	if !s.write {
		return
	}
	err := podweft.ErrHeld
	if !podweft.PassOf(s.ctx).Held(o) || s.d.table.Eager() {
		err = change()
	}
	if err != nil {
		s.fail(op, o, err)
	}
}

// fail gives the last change of the plan its error.
func (s *linkStep) fail(op podweft.Op, o podweft.Object, err error) {
	s.plan[len(s.plan)-1].Err = &podweft.OpError{Op: op.String(), Object: o, Err: err}
}

// explain names the links that may keep a VTEP from being made: the kernel only says that something exists.
func (s *linkStep) explain(err error) error {
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var others []string
	for _, l := range s.known {
		if l.Alias != s.d.alias {
			others = append(others, newObject(l, s.deviceName(l.VXLAN.Underlay)).String())
		}
	}
	if len(others) == 0 {
		return fmt.Errorf("%w: %w", podweft.ErrConflict, err)
	}
	return fmt.Errorf("%w: %w: one of %s", podweft.ErrConflict, err, strings.Join(others, "; "))
}

func (s *linkStep) deviceName(index int) string {
	l, err := s.d.conn.LinkAt(index)
	if err != nil {
		return fmt.Sprint(index)
	}
	return l.Name
}

// vtep makes one VTEP and its addresses. placeholder stands for its index in a plan for a link that is not there;
// it is negative, and those of several VTEPs are in the order in which they would be made.
func (s *linkStep) vtep(v VTEP, placeholder int) error {
	device, err := s.d.conn.Link(v.Device)
	if errors.Is(err, nl.ErrNoLink) {
		return s.stranded(v, err)
	}
	if err != nil {
		return err
	}
	want := v.link(s.d.alias, device)
	have, err := s.d.conn.Link(want.Name)
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
	if index == 0 && s.write {
		return nil
	}
	if index == 0 {
		index = placeholder
	}
	s.found(v, index, device)
	return errors.Join(s.offload(v, index > 0), s.addresses(v, index), s.networks(device.Index))
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
	s.plan = append(s.plan, podweft.Change{Op: podweft.Create, Object: o})
	s.fail(podweft.Create, o, missing)
	at := slices.IndexFunc(s.known, func(l nl.Link) bool { return l.Name == v.name() && l.Alias == s.d.alias })
	if at < 0 {
		return nil
	}
	have := s.known[at]
	device, err := s.d.conn.LinkAt(have.VXLAN.Underlay)
	if errors.Is(err, nl.ErrNoLink) {
		return nil
	}
	if err != nil {
		return err
	}
	s.plan[len(s.plan)-1].Op = podweft.Update
	s.fail(podweft.Update, o, missing)
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
	o := newObject(want, device)
	switch {
	case have.Index == 0:
		s.do(podweft.Create, o, "", func(b *nl.Batch) { b.AddVXLAN(want) })
		return s.indexOf(want.Name)
	case have.Alias != want.Alias || have.Kind != want.Kind:
		s.plan = append(s.plan, podweft.Change{Op: podweft.Create, Object: o})
		s.fail(podweft.Create, o, fmt.Errorf("%w: link %s, of kind %q, alias %q", podweft.ErrConflict, have.Name, have.Kind, have.Alias))
		return 0, nil
	case have.VXLAN != want.VXLAN && !changeable(want.VXLAN, have.VXLAN):
		note := "replaces " + newObject(have, s.deviceName(have.VXLAN.Underlay)).String()
		s.do(podweft.Update, o, note, func(b *nl.Batch) {
			b.DeleteLink(have.Index)
			b.AddVXLAN(want)
		})
		return s.indexOf(want.Name)
	}
	note, requests := changes(want, have)
	if note != "" {
		s.do(podweft.Update, o, note, requests)
	}
	return have.Index, nil
}

// indexOf is 0 in a plan for a link that does not exist.
func (s *linkStep) indexOf(name string) (int, error) {
	l, err := s.d.conn.Link(name)
	if errors.Is(err, nl.ErrNoLink) {
		return 0, nil
	}
	if l.Alias != s.d.alias {
		return 0, err
	}
	return l.Index, err
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

// changes returns the requests that make have into want in place, and what they change as a note for people.
func changes(want, have nl.Link) (note string, requests func(*nl.Batch)) {
	var steps []func(*nl.Batch)
	add := func(what string, step func(*nl.Batch)) {
		if note != "" {
			note += ", "
		}
		note += what
		steps = append(steps, step)
	}
	want.Index = have.Index
	if have.VXLAN != want.VXLAN {
		add(fmt.Sprintf("was local %s", have.VXLAN.Local), func(b *nl.Batch) { b.ChangeVXLAN(want) })
	}
	if have.MAC != want.MAC {
		add("was address "+have.MAC.String(), func(b *nl.Batch) { b.SetMAC(have.Index, want.MAC) })
	}
	if have.MTU != want.MTU {
		add(fmt.Sprintf("was mtu %d", have.MTU), func(b *nl.Batch) { b.SetMTU(have.Index, want.MTU) })
	}
	if !have.Up {
		add("was down", func(b *nl.Batch) { b.SetUp(have.Index, true) })
	}
	return note, func(b *nl.Batch) {
		for _, step := range steps {
			step(b)
		}
	}
}

// addresses gives the VTEP its addresses and takes all others off it, but for the kernel's own link-local ones.
func (s *linkStep) addresses(v VTEP, index int) error {
	var have []nl.Address
	if index > 0 {
		var err error
		if have, err = s.d.conn.Addresses(index); err != nil {
			return err
		}
	}
	for _, a := range v.Addresses {
		there := slices.ContainsFunc(have, func(h nl.Address) bool { return h.Prefix == a })
		if !there {
			s.do(podweft.Create, address{a, v.name()}, "", func(b *nl.Batch) { b.AddAddress(nl.Address{Link: index, Prefix: a}) })
		}
	}
	for _, h := range have {
		if !h.LinkScope && !slices.Contains(v.Addresses, h.Prefix) {
			s.do(podweft.Delete, address{h.Prefix, v.name()}, "", func(b *nl.Batch) { b.DeleteAddress(h) })
		}
	}
	return nil
}

// networks notes which networks the underlay interface is on, for DirectRouting.
func (s *linkStep) networks(device int) error {
	addrs, err := s.d.conn.Addresses(device)
	for _, a := range addrs {
		if !a.LinkScope && !a.Prefix.IsSingleIP() {
			s.out.onLink = append(s.out.onLink, a.Prefix.Masked())
		}
	}
	return err
}
