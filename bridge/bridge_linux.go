package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/cable"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/sysctl"
)

// converge makes b as it should be. Creation is exclusive, everything else is compared and written: so it does not matter
// who else is at it, or where one who was killed left off.
func (a *Attacher) converge(ctx context.Context, b Bridge) (nl.Link, error) {
	want := a.wanted(b)
	have, err := a.bridge(ctx, want)
	if err != nil {
		return have, err
	}
	steps, err := a.bridgeLacks(have, want, b)
	if err != nil || len(steps) == 0 {
		return have, err
	}
	if have.Alias == "" {
		a.refuseAdvertisements(ctx, b.Name) // before it has one: should we be killed, the next to come does it
	}
	if err := a.node.Do(ctx, steps...); err != nil {
		return have, err
	}
	for _, s := range steps {
		a.node.Log.DebugContext(ctx, "bridge converged", "op", s.Op, "object", s.Object)
	}
	return a.node.Conn.Link(b.Name)
}

// wanted is the link that b asks for.
func (a *Attacher) wanted(b Bridge) nl.Link {
	want := nl.Link{Name: b.Name, Alias: a.node.Mark, Kind: "bridge", MTU: b.MTU, MAC: b.MAC}
	if want.MAC.IsZero() {
		want.MAC = bridgeMAC(a.node.Owner, b)
	}
	return want
}

// bridgeLacks is what an existing bridge is to be given or relieved of.
func (a *Attacher) bridgeLacks(have, want nl.Link, b Bridge) ([]cable.Step, error) {
	mine := cable.Ours(have, want)
	if !mine && a.adopt {
		var err error
		if mine, err = a.adoptable(have); err != nil {
			return nil, err
		}
		b.MAC = have.MAC // given, it does not change with the ports any more
	}
	if !mine {
		return nil, &podweft.OpError{
			Op: "create", Object: podweft.Named("link " + b.Name + " type bridge"),
			Err: fmt.Errorf("%w: delete it, or give the bridge another name", cable.Conflict(have)),
		}
	}
	addresses, err := a.addressSteps(have, b)
	return append(bridgeSteps(have, want, b), addresses...), err
}

// bridge returns the link of the bridge's name, whosever it is, and makes it if there is none.
func (a *Attacher) bridge(ctx context.Context, want nl.Link) (nl.Link, error) {
	have, err := a.node.Conn.Link(want.Name)
	if !errors.Is(err, nl.ErrNoLink) {
		return have, err
	}
	create := cable.Step{
		Op: "create", Object: fmt.Sprintf("link %s type bridge address %s", want.Name, want.MAC),
		Request: func(b *nl.Batch) { b.CreateBridge(want) }, Fine: unix.EEXIST, // somebody else was faster: see whose it is
	}
	if err := a.node.Do(ctx, create); err != nil {
		return have, err
	}
	return a.node.Conn.Link(want.Name)
}

// bridgeSteps is what have lacks.
func bridgeSteps(have, want nl.Link, b Bridge) (steps []cable.Step) {
	update := func(what string, request func(*nl.Batch)) {
		steps = append(steps, cable.Step{Op: "update", Object: fmt.Sprintf("link %s %s", want.Name, what), Request: request})
	}
	if have.Alias == "" || !have.Up {
		update("up alias "+want.Alias, func(b *nl.Batch) { b.Mark(want) })
	}
	if want.MTU != 0 && have.MTU != want.MTU {
		update(fmt.Sprintf("mtu %d", want.MTU), func(b *nl.Batch) { b.SetMTU(have.Index, want.MTU) })
	}
	if !b.MAC.IsZero() && (have.MAC != b.MAC || have.Alias == "") {
		update("address "+b.MAC.String(), func(r *nl.Batch) { r.SetMAC(have.Index, b.MAC) })
	}
	return steps
}

// addresses are the bridge's gateways and, for IPv6, a link-local address: the node asks for a pod's MAC with it when it
// forwards a packet whose source is not on the bridge (ndisc_solicit in net/ipv6/ndisc.c sends nothing without one).
func (b Bridge) addresses(mac podweft.MAC) []netip.Prefix {
	all := slices.Clone(b.Gateways)
	if slices.ContainsFunc(all, func(g netip.Prefix) bool { return g.Addr().Is6() }) {
		all = append(all, netip.PrefixFrom(mac.LinkLocal(), 64))
	}
	return all
}

// addressSteps gives the bridge its addresses and takes all others off it, but for link-local ones.
func (a *Attacher) addressSteps(br nl.Link, b Bridge) (steps []cable.Step, err error) {
	have, err := a.node.Conn.Addresses(br.Index)
	if err != nil {
		return nil, err
	}
	for _, h := range have {
		if !h.LinkScope && !slices.Contains(b.Gateways, h.Prefix) {
			steps = append(steps, cable.DeleteAddress(b.Name, h))
		}
	}
	mac := br.MAC
	if !b.MAC.IsZero() {
		mac = b.MAC
	}
	for _, g := range b.addresses(mac) {
		if !slices.ContainsFunc(have, func(h nl.Address) bool { return h.Prefix == g }) {
			steps = append(steps, cable.AddAddress(b.Name, nl.Address{Link: br.Index, Prefix: g}))
		}
	}
	return steps, nil
}

// refuseAdvertisements keeps a pod that sends router advertisements from becoming the node's router (CVE-2020-10749). A node
// that forwards IPv6 ignores them anyway, so where /proc/sys cannot be written this is no reason to attach nothing.
func (a *Attacher) refuseAdvertisements(ctx context.Context, name string) {
	err := sysctl.Ensure(a.node.Path, "net/ipv6/conf/"+name+"/accept_ra", "0")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.node.Log.WarnContext(ctx, "bridge may accept router advertisements", "link", name, "err", err)
	}
}

// adoptable reports whether another plugin made the bridge: it says nothing, and pods are all it joins.
func (a *Attacher) adoptable(have nl.Link) (bool, error) {
	if have.Kind != "bridge" || have.Alias != "" {
		return false, nil
	}
	all, err := a.node.Conn.Links()
	return err == nil && !slices.ContainsFunc(all, func(l nl.Link) bool { return l.Master == have.Index && l.Kind != "veth" }), err
}
