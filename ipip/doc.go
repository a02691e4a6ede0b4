// Package ipip makes the pod subnets of other nodes reachable by wrapping each packet into one more IP header, and nothing else: it
// creates this node's tunnel links and programs a route for each peer's subnet.
//
// It is the cheapest tunnel there is, 20 bytes a packet over IPv4 and 40 over IPv6 where VXLAN takes 50 and 70. But some networks,
// those of public clouds above all, pass only TCP, UDP and ICMP: there, use package vxlan.
//
// # A packet's way
//
// A packet to a pod in a peer's subnet 10.244.2.0/24 needs one entry, "10.244.2.0/24 via 192.0.2.2 dev flannel.ipip onlink". The
// gateway is the peer's own underlay address. There is nobody behind the link to ask for a MAC, so the link takes the gateway for
// the destination of the outer packet, with its Local for the source.
//
// # Families
//
// A tunnel sends its outer packets over one underlay family, so a [Spec] has up to two of them, one for IPv4 and one for IPv6. The
// tunnel over IPv4 (a link of kind ipip, the module's name too) carries IPv4, the one over IPv6 (kind ip6tnl, module ip6_tunnel)
// carries both. Where the kernel lacks the module, Apply fails with [podweft.ErrNotSupported]. [Compile] sends the IPv4 subnets over
// the IPv4 underlay and the IPv6 subnets over the IPv6 underlay; where one of two nodes has no IPv4 there, both over IPv6.
//
// Over IPv6 the route has no gateway. The kernel refuses an IPv6 gateway on one link while a route leads to it by another, even
// onlink (ip6_route_check_nh_onlink in net/ipv6/route.c), and such a route leads to every peer. So the route carries the outer header
// itself, "encap ip6 src 2001:db8::1 dst 2001:db8::2", to a link that is "external" and obeys.
//
// IPv6 over IPv4 is left out. The kernel has a kind of link for it, sit, but that keeps one route for the outer packets to all its
// peers (the dst_cache of ipip6_tunnel_xmit in net/ipv6/sit.c, from Linux 4.6 to 6.18 at least): as soon as not all peers have the
// same next hop, it sends packets to the wrong one. Package vxlan carries IPv6 over IPv4.
//
// The link flannel.ipip, and what a node publishes (nothing but its addresses), are flannel's, so that its nodes and ours share one
// overlay; flannel has none over IPv6.
//
// # What it does not do
//
// IP in IP neither encrypts nor authenticates: whoever can send such packets to a node can send to its pods. There is no number in
// them that tells two networks apart either: two Specs cannot share a Local on one Device, nor can a namespace have two tunnels over
// IPv6. With the modules, links tunl0 and ip6tnl0 appear in every namespace: they are the kernel's and stay as they are.
// The package leases no subnets (see package subnet), attaches no pods (package bridge) and masquerades nothing (package nat).
package ipip
