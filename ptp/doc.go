// Package ptp attaches pods to their node by routed links, without a bridge: each pod has a link of its own to the node, an
// address that is in nobody's subnet, and the node as its router for everything, as Calico does it.
//
//	pods, err := ptp.New(ptp.Config{})
//	...
//	at, err := pods.Attach(ctx, ptp.Port{
//		Container: id, NetNS: "/run/netns/blue", MTU: 1450, Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.2")},
//	})
//	...
//	err = pods.Detach(ctx, ptp.Port{Container: id})
//
// A pod's port is a veth pair, and on the node a route to each of the pod's addresses:
//
//	pod blue                                 node
//	eth0 10.244.1.2/32 ---- veth3f0c         10.244.1.2 dev veth3f0c
//	default via 169.254.1.1 dev eth0
//
// The gateways [Gateway4] and [Gateway6] are the same in every pod. Nobody has the first: the pod knows the MAC of the node's
// end, and no more is asked of a gateway. The second is on every port's end, so that the node can ask for neighbours there.
// Pods have no neighbours but the node, so whatever one sends is routed there, and can be filtered there.
//
// # What is promised
//
// When [Attacher.Attach] returns, packets flow, the first one too. When it fails it has undone what it did. Attached again, a
// port is left as it is, and completed where something is missing. Any number of goroutines and processes may attach and detach
// at once. A [Driver] keeps all ports of a node, and puts back what somebody took away.
//
// Everything this package makes in the node's namespace bears its mark: links an alias that begins with "podweft:OWNER", routes a
// protocol that is derived from it. What does not is never changed or deleted; where it is in the way, the error is
// [podweft.ErrConflict]. A route that bears our mark and leads to another port of ours gives way: an address is the pod's that
// was given it last.
//
// # What will surprise you
//
// IPv4 packets from another address than the port's own are dropped (rp_filter of the node's end is 1), so pods cannot pose as one
// another, unless net.ipv4.conf.all.rp_filter is 2, as some distributions have it: the larger of the two counts, and 2 asks no
// more than that some link leads to the source (Documentation/networking/ip-sysctl.rst). Where something sets the end's own to
// another value later, as udev's rules for new links may, Check reports it, and Attach and a Driver's next pass put it back, of
// which nothing tells the Driver. For IPv6 the kernel has no such setting: there it is a policy's work.
//
// The node's end answers ARP for everything (proxy_arp), which pods need only if somebody takes their permanent neighbour entry
// away. For IPv6, the gateway's address is there and answers by itself.
//
// A pod may have several ports. Where two of them lead to the same prefix, as default routes do, the first is the way, and the other's
// route, with a metric of 2000 and more, is when the first goes. Until then what a pod sends there from the other's IPv4 address comes
// to the node by the first, whose end drops it: such a port needs [Port.Routes] that the first has not, or rules in the pod such as
// CNI's sbr plugin makes.
//
// A Spec that names no [Spec.Local] sends packets for addresses that no pod has where the node's default route leads, from where
// they may come back, until their time to live has ended.
//
// The package allocates no addresses (package ipam and its block), tells other nodes of none (packages hostgw, ipip, vxlan; module
// bgp), masquerades nothing (package nat), does not turn on forwarding, and filters nothing.
package ptp
