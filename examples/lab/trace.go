package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft/testnet"
)

// hop is one step of a packet's way: a decision of the kernel, with the entry that made it, or a link that it passed.
type hop struct {
	At    string `json:"at"`    // the node or pod where it happens
	Kind  string `json:"kind"`  // "route", "neighbour", "fdb", "peer" or "link"
	Entry string `json:"entry"` // as `ip` and `bridge` print it; of a link its name
	Why   string `json:"why"`   // what it means, in a person's words
	// Seen is, of a link, what an echo request looked like when it passed: "98 bytes". Empty if it did not pass.
	Seen string `json:"seen,omitempty"`

	machine *testnet.Node // where the link is
}

const (
	kindRoute     = "route"
	kindNeighbour = "neighbour"
	kindFDB       = "fdb"
	kindPeer      = "peer"
	kindLink      = "link"
)

// tracer follows one packet. It asks each kernel on the way what that kernel would do, and then sends a packet and looks
// whether it came by.
type tracer struct {
	c    *cluster
	from *pod
	to   *pod
	src  netip.Addr
	dst  netip.Addr
	hops []hop
}

// trace finds the way from a pod's address to another pod's. What was found out before an error is returned with it.
func (c *cluster) trace(ctx context.Context, from, to *pod, dst netip.Addr) ([]hop, error) {
	if c.racked != nil {
		t, err := c.racked.traceRouted(ctx, from, to, dst)
		return t.hops, err
	}
	t := &tracer{c: c, from: from, to: to, src: address(from.addresses, dst), dst: dst}
	// The first packet makes the kernels look for their neighbours; only then is there something to read.
	if _, err := from.machine.Ping(ctx, dst); err != nil {
		return nil, err
	}
	if err := errors.Join(t.leavePod(), t.watch(ctx)); err != nil {
		return t.hops, err
	}
	return t.hops, t.unseen()
}

// unseen is nil if the packet passed every link that it should have.
func (t *tracer) unseen() error {
	for _, h := range t.hops {
		if h.Kind == kindLink && h.Seen == "" {
			return fmt.Errorf("the packet did not pass %s of %s", h.Entry, h.At)
		}
	}
	return nil
}

func (t *tracer) decision(k kernel, kind, entry, why string, args ...any) {
	t.hops = append(t.hops, hop{At: k.name, Kind: kind, Entry: entry, Why: fmt.Sprintf(why, args...)})
}

func (t *tracer) passes(machine *testnet.Node, link netlink.Link, why string, args ...any) {
	name := link.Attrs().Name
	t.hops = append(t.hops, hop{At: machine.Name, Kind: kindLink, Entry: name, Why: fmt.Sprintf(why, args...), machine: machine})
}

// leavePod follows the packet out of its pod, to the bridge.
func (t *tracer) leavePod() error {
	pod, err := openKernel(t.from.machine)
	if err != nil {
		return err
	}
	defer pod.close()
	r, err := pod.route(t.dst)
	if err != nil {
		return err
	}
	if r.gateway.IsValid() {
		t.decision(pod, kindRoute, r.entry, "%s is not on this pod's link: the gateway, its node, will know", t.dst)
	} else {
		t.decision(pod, kindRoute, r.entry, "%s is on this pod's own link: no gateway is needed", t.dst)
	}
	mac, entry, err := pod.neighbour(r.dev, r.next(t.dst))
	if err != nil {
		return err
	}
	t.decision(pod, kindNeighbour, entry, "so this MAC becomes the destination of the Ethernet frame")
	t.passes(t.from.machine, r.dev, "a veth: the cable between the pod and its node")

	node, err := openKernel(t.from.on.machine)
	if err != nil {
		return err
	}
	defer node.close()
	return t.crossBridge(node, r.dev, mac)
}

// crossBridge follows the frame from a pod's cable into the node's bridge.
func (t *tracer) crossBridge(node kernel, cable netlink.Link, mac net.HardwareAddr) error {
	port, err := node.peer(cable)
	if err != nil {
		return err
	}
	t.passes(t.from.on.machine, port, "the cable's other end, a port of the node's bridge")
	br, err := node.h.LinkByIndex(port.Attrs().MasterIndex)
	if err != nil {
		return fmt.Errorf("bridge of %s: %w", node.name, err)
	}
	to, entry, err := node.bridgeFDB(br, mac)
	if err != nil {
		return err
	}
	if to.Attrs().Index != br.Attrs().Index {
		t.decision(node, kindFDB, entry, "the bridge knows by which port it reaches that MAC")
		return t.enterPod(to)
	}
	t.decision(node, kindFDB, entry, "the MAC is the bridge's own: the frame is for the node itself, which routes it")
	t.passes(t.from.on.machine, br, "from here on the packet is the node's to forward")
	return t.crossNodes(node)
}

// crossNodes follows the packet from node to node, in a tunnel if the route leads into one.
func (t *tracer) crossNodes(node kernel) error {
	r, err := node.route(t.dst)
	if err != nil {
		return err
	}
	next := r.next(t.dst)
	if t.from.on.backend.peer != nil {
		return t.crossUserSpace(node, r)
	}
	if r.dev.Type() != "vxlan" {
		t.decision(node, kindRoute, r.entry, "the subnet of %s, through that node's own address: no tunnel", t.to.on.machine.Name)
		return t.crossUnderlay(node, r.dev, next, "")
	}
	t.decision(node, kindRoute, r.entry, "the subnet of %s; the gateway is that node's VTEP, at the far end of the tunnel", t.to.on.machine.Name)
	mac, entry, err := node.neighbour(r.dev, next)
	if err != nil {
		return err
	}
	t.decision(node, kindNeighbour, entry, "the MAC of that VTEP: where the inner Ethernet frame goes")
	remote, entry, err := node.vxlanFDB(r.dev, mac)
	if err != nil {
		return err
	}
	t.decision(node, kindFDB, entry, "the machine behind that MAC: where the outer UDP packet goes")
	t.passes(t.from.on.machine, r.dev, "the VTEP wraps the frame: VNI and UDP in front")

	under, err := node.route(remote)
	if err != nil {
		return err
	}
	t.decision(node, kindRoute, under.entry, "the way to that machine, over the underlay")
	return t.crossUnderlay(node, under.dev, under.next(remote), r.dev.Attrs().Name)
}

// crossUserSpace follows the packet through the node's agent, which moves it itself.
func (t *tracer) crossUserSpace(node kernel, r route) error {
	t.decision(node, kindRoute, r.entry, "all pods of other nodes are behind this link: a TUN, whose other end is the node's agent")
	t.passes(t.from.on.machine, r.dev, "out of the kernel, into the agent")
	entry, at := t.from.on.backend.peer(t.dst)
	if entry == "" {
		return fmt.Errorf("peer of %s for %s: %w", node.name, t.dst, errNoEntry)
	}
	t.decision(node, kindPeer, entry, "its own table, in user space: where the packet goes, as the payload of a UDP datagram")
	under, err := node.route(at.Addr())
	if err != nil {
		return err
	}
	t.decision(node, kindRoute, under.entry, "the way to that machine, over the underlay")
	return t.crossUnderlay(node, under.dev, under.next(at.Addr()), r.dev.Attrs().Name)
}

// crossUnderlay follows the packet over the real wire, to the node that has the next address, and there out of the tunnel,
// if it is in one.
func (t *tracer) crossUnderlay(node kernel, dev netlink.Link, next netip.Addr, tunnel string) error {
	_, entry, err := node.neighbour(dev, next)
	if err != nil {
		return err
	}
	t.decision(node, kindNeighbour, entry, "that machine's MAC on the wire")
	t.passes(t.from.on.machine, dev, "out on the wire")

	member := t.c.memberAt(next)
	if member == nil {
		return fmt.Errorf("no node has the address %s", next)
	}
	there, err := openKernel(member.machine)
	if err != nil {
		return err
	}
	defer there.close()
	arrival, err := there.link(dev.Attrs().Name) // all nodes are alike
	if err != nil {
		return err
	}
	t.passes(member.machine, arrival, "in on the other machine")
	if tunnel != "" {
		vtep, err := there.link(tunnel)
		if err != nil {
			return err
		}
		why := "the VTEP unwraps it: UDP port and VNI are its own"
		if t.from.on.backend.peer != nil {
			why = "back into the kernel: the agent here knows the sender, and that it has this source"
		}
		t.passes(member.machine, vtep, "%s", why)
	}
	return t.reachPod(there)
}

// reachPod follows the packet from its node's routing table to the pod.
func (t *tracer) reachPod(node kernel) error {
	r, err := node.route(t.dst)
	if err != nil {
		return err
	}
	t.decision(node, kindRoute, r.entry, "the node's own subnet: the pod is on its bridge")
	mac, entry, err := node.neighbour(r.dev, t.dst)
	if err != nil {
		return err
	}
	t.decision(node, kindNeighbour, entry, "the pod's MAC")
	t.passes(t.to.on.machine, r.dev, "into the bridge")
	port, entry, err := node.bridgeFDB(r.dev, mac)
	if err != nil {
		return err
	}
	t.decision(node, kindFDB, entry, "the bridge knows by which port it reaches that MAC")
	return t.enterPod(port)
}

// enterPod follows the frame from a bridge's port into the pod.
func (t *tracer) enterPod(port netlink.Link) error {
	t.passes(t.to.on.machine, port, "the node's end of the pod's cable")
	pod, err := openKernel(t.to.machine)
	if err != nil {
		return err
	}
	defer pod.close()
	eth0, err := pod.peer(port)
	if err != nil {
		return err
	}
	t.passes(t.to.machine, eth0, "%s, at last", t.to.name)
	return nil
}

// printHops draws a packet's way from top to bottom.
func printHops(p printer, indent string, hops []hop) {
	var t table
	at := ""
	for _, h := range hops {
		where := cell{h.At, bold}
		if h.At == at {
			where = cell{}
		} else if at != "" {
			t.row()
		}
		at = h.At
		kind, entry := cell{h.Kind, yellow}, cell{h.Entry, plain}
		if h.Kind == kindLink {
			kind, entry = cell{h.Kind, cyan}, h.sighting()
		}
		t.row(where, kind, entry)
		t.row(cell{}, cell{}, cell{h.Why, dim})
	}
	t.print(p, indent)
}

// sighting is a link, and what was seen to pass there.
func (h hop) sighting() cell {
	const longest = 15 // IFNAMSIZ of linux/if.h, without the closing zero
	if h.Seen == "" {
		return cell{fmt.Sprintf("%-*s  ✗ nothing passed", longest, h.Entry), red}
	}
	return cell{fmt.Sprintf("%-*s  ✓ %s", longest, h.Entry, h.Seen), green}
}
