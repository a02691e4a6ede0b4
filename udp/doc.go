// Package udp makes the pod subnets of other nodes reachable where the kernel cannot or may not: it moves packets between a TUN link
// and UDP sockets in this process. It needs no kernel module but tun, works in a user namespace, and is wire-compatible with
// flannel's udp backend.
//
// Where the kernel has VXLAN, package vxlan is faster and costs less. Where it has not, this is what there is: rootless nodes,
// sandboxes, small kernels.
//
// # A packet's way
//
// A packet to a pod in a peer's subnet 10.244.2.0/24 meets one route, "10.244.0.0/16 dev flannel0", for all peers together. Behind the
// link is this package, which is a router: it looks for the peer in a table of its own (longest prefix, by gaissmai/bart; a reader never
// waits), takes one off the TTL or hop limit, and sends the packet as it is, as the payload of one UDP datagram, to port 8285 of the
// peer. What goes nowhere is answered by ICMP. The peer verifies that the datagram is from a node it knows and the packet from a pod
// behind that node, and gives it to its kernel to forward. Everything else is dropped, and counted by [Stats].
//
// A [Driver] is two things: a podweft.Driver, for a podweft.Loop to keep the link, the addresses, the routes, the sockets and the table
// as they should be; and [Driver.Forward], which moves the packets and has to run beside it. The link outlives the process with its
// addresses and routes, so that the next one goes on where it stopped.
//
// # Why it is fast
//
// What costs is not the copying of bytes but each packet's way through the kernel. So the kernel is asked for few, large ones. The TUN
// hands out TCP and UDP super-packets of up to 64 KiB (virtio headers, TSO, USO), which are cut into packets that fit, each with its
// headers and checksums; they leave as one datagram that the kernel, or the network card, cuts into the same packets (UDP GSO). On the
// other side they come in as one again (UDP GRO), and runs of one flow are written as one super-packet. The payload is never copied
// here: the kernel gathers it from where it was read. Nothing is allocated for a packet. Each goroutine has a TUN queue and a socket,
// and moves packets both ways: what a packet causes while it is written, such as an acknowledgement, is ready for it to send.
// Each of these is tried and done without where the kernel has none of it.
//
// The checksum of every packet is verified before it is joined to others: the kernel takes our word for those, and a damaged packet
// would get a good checksum. So it stays wrong, and is dropped.
//
// The plumbing of the TUN is our own, not golang.zx2c4.com/wireguard/tun: that copies each packet twice more.
//
// # Families
//
// IPv4 and IPv6 pods share one link, and each peer has one underlay address for each of its prefixes, of either family. [Compile] sends
// the subnets of each family over the underlay of that family where both nodes have it. DSCP and ECN are carried to the outer header;
// congestion met by the tunnel is passed on (RFC 6040). The outer packet may be fragmented, where the underlay is narrower than it says.
//
// # What it does not do
//
// It neither encrypts nor authenticates: whoever can forge a peer's address can send to its node's pods as that peer's. Multicast goes
// nowhere. The package leases no subnets (see package subnet), attaches no pods (package bridge) and masquerades nothing (package nat).
package udp
