// Package bridge attaches pods to a node's bridge, in the calling process and within a millisecond or two.
//
//	pods, err := bridge.New(bridge.Config{})
//	...
//	cni0 := bridge.Bridge{MTU: 1450, Gateways: []netip.Prefix{netip.MustParsePrefix("10.244.1.1/24")}}
//	at, err := pods.Attach(ctx, cni0, bridge.Port{
//		Container: id, NetNS: "/run/netns/blue", Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.1.2/24")},
//	})
//	...
//	err = pods.Detach(ctx, bridge.Port{Container: id})
//
// A pod's port is a veth pair: one end in the pod, the other a port of the bridge. The bridge has an address of the node's
// in each subnet of pods, the gateway that they send everything to that is not for their neighbours.
//
//	pod blue                          node
//	eth0 10.244.1.2/24 ---- veth3f0c (port of) cni0 10.244.1.1/24 ---- routes, tunnels, the world
//
// # What is promised
//
// When [Attacher.Attach] returns, packets flow, the first one too: IPv6 addresses skip duplicate address detection, the
// pod knows the gateway's MAC, and the bridge has begun to forward for the port. When it fails it has undone what it did,
// but for the bridge, which is the node's. Attached again, a port is left as it is.
//
// The bridge is converged: made if it is not there, brought up, given the MTU and the addresses that are asked for and
// relieved of others, as after a change of the node's lease. That any number of goroutines and processes do so at once
// is fine.
//
// [Attacher.Detach] waits for the kernel, some 20 ms. Who detaches many, or is in a hurry, retires them with [Attacher.Retire],
// in a third of a millisecond each, and has all deleted by one [Attacher.Sweep].
//
// A [Driver] keeps a bridge and any number of ports as they should be, for a podweft.Loop: it repairs what somebody has taken
// away since, on the node and in the pods.
//
// Everything this package makes in the node's namespace bears its mark, a link alias that begins with "podweft:OWNER". What
// does not is never changed or deleted; where it is in the way, the error is [podweft.ErrConflict]. That includes a bridge
// of the wanted name which a person or another network plugin made: delete it, choose another name, or let Config.Adopt take
// it over, which cuts nobody's traffic.
//
// # What will surprise you
//
// Pods have a permanent neighbour entry for each gateway: no other pod can pose as it, and a bridge that gets another MAC
// is out of their reach. So the bridge's is given at its birth and then kept (see [Bridge]).
//
// A pod may have several ports, on one bridge or on several. Where two of them lead to the same prefix, as default routes do, the
// first is the way; the other's route has a metric of 2000 and more, and is the way when the first goes. Each end in a pod speaks of its
// own addresses only in ARP (arp_ignore 1, arp_announce 2), or whoever asks for one's might get the other's MAC. Where pods check the
// source of what they receive strictly (net.ipv4.conf.*.rp_filter 1), two on one bridge do not go together: answers leave by the first.
//
// The package allocates no addresses (package ipam), masquerades and publishes nothing (package nat), does not turn on
// forwarding (net.ipv4.ip_forward, net.ipv6.conf.all.forwarding; package node does), filters nothing, and does not keep
// pods from posing as one another.
package bridge
