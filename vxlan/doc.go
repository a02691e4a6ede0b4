// Package vxlan makes the pod subnets of other nodes reachable through the kernel's VXLAN: it creates this node's VTEPs and
// programs, for each peer, a neighbour (ARP or NDP), a forwarding entry (FDB) and a route.
//
// # A packet's way
//
// ARP/NDP entries and FDB entries sit next to each other and are easily confused, so follow one packet to a pod in a peer's
// subnet 10.244.2.0/24:
//
//   - route: "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink". The gateway is the subnet's zero address, which the
//     peer's VTEP has; no router answers for it;
//   - neighbour: "10.244.2.0 lladdr 0e:1d:2c:3b:4a:59 dev flannel.1": the MAC of the peer's VTEP, the destination of the
//     inner Ethernet frame;
//   - FDB: "0e:1d:2c:3b:4a:59 dev flannel.1 dst 192.0.2.2": behind which underlay address the VTEP finds that MAC, the
//     destination of the outer UDP packet.
//
// All three are permanent, nothing is learned from traffic. Routes of IPv6 subnets have for their gateway the link-local
// address that belongs to the peer's MAC; the rest is alike.
//
// # Families
//
// A VTEP sends its outer packets over one underlay family, so a [Spec] has up to two of them, one for IPv4 and one for
// IPv6. Each carries pods of either family. [Compile] does as flannel does in a dual-stack cluster: the IPv4 subnets go over
// the IPv4 VTEP and the IPv6 subnets over the IPv6 VTEP.
//
// The link names (flannel.1, flannel-v6.1), the port 8472 and what a node publishes about its VTEP (see [LeaseData]) are
// flannel's, so that its nodes and ours share one overlay.
//
// # What it does not do
//
// VXLAN neither encrypts nor authenticates: whoever can send UDP to a VTEP can send to its pods. The package leases no
// subnets (see package subnet), attaches no pods (package bridge) and masquerades nothing (package nat).
package vxlan
