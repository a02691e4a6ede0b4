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
// What costs most, packet by packet, is not the copying of bytes but each one's way through the kernel. So the kernel is asked for few,
// large ones. The TUN hands out TCP and UDP super-packets of up to 64 KiB (virtio headers, TSO, USO), which are cut into packets that
// fit, each with its headers and checksums; they leave as one datagram that the kernel, or the network card, cuts into the same packets
// (UDP GSO). On the other side they come in as one again (UDP GRO), and runs of one flow are written as one super-packet. Each of these
// is tried, and done without where the kernel has none of it.
//
// The checksum's pass over the payload copies it to where its header is: small pieces the kernel copies half as fast as one large piece.
// Nothing is allocated for a packet. Each goroutine has a TUN queue and a socket, and moves packets both ways: what a packet causes while
// it is written, such as an acknowledgement, is ready for it to send.
//
// The checksum of every packet is verified before it is joined to others: the kernel takes our word for those, and a damaged packet
// would get a good checksum. So it stays wrong, and is dropped.
//
// # How fast it is
//
// The benchmarks compare it with the kernel's VXLAN, with a forwarder that takes packets one by one, and with the floor: a bare forwarder
// that reads super-packets from the same TUN and sends them through the same sockets as they are, without looking at them. Whatever
// moves packets through user space makes the floor's system calls and has its copies made. On two processors of an EPYC that do all the
// work, the pods' too (Linux 6.18, veth, MTU 1500), the medians of several runs of BenchmarkThroughput and BenchmarkRTT were
//
//	                                                        udp          floor        VXLAN itself
//	IPv4  TCP, 1 stream, of VXLAN's                         0.77-0.78    0.88-1.02    17 Gbit/s
//	      TCP, 4 streams, of VXLAN's                        0.39-0.42    0.41-0.45    32 Gbit/s
//	      processor time for a Gbit, 1 stream, of VXLAN's   1.5-1.6      1.1-1.4      0.08 s
//	      processor time for a Gbit, 4 streams, of VXLAN's  2.3-2.6      2.1-2.3      0.06 s
//	IPv6  TCP, 1 stream, of VXLAN's                         0.63-0.71    0.78-0.91
//	      TCP, 4 streams, of VXLAN's                        0.37         0.39-0.42
//	      processor time for a Gbit, 1 stream, of VXLAN's   1.6-1.7      1.3-1.4
//	      processor time for a Gbit, 4 streams, of VXLAN's  2.5-2.7      2.2-2.4
//	both  round trip, of one-by-one's                       0.65-0.79    0.64-0.75    0.22-0.30
//
// On a Xeon of 2.5 GHz, where copies take longer, it was 0.45-0.51 and 0.27-0.31 over IPv4, processor time 2.1-2.3 and 3.2-3.6 (VXLAN's
// own: 0.08-0.12 s and 0.05-0.08 s), round trips 0.87-0.91; the figures below are that machine's.
//
// The copies are the limit. With VXLAN the kernel copies a byte twice, from and to the pods (tcp_sendmsg, tcp_recvmsg). Here it does so
// four times more: tun_do_read, udp_sendmsg, udp_recvmsg, tun_get_user. One moves about 10 GB/s on that machine, for VXLAN as for the
// floor, so that the four take 0.05 s of processor time for a Gbit: nearly as much again as VXLAN takes in all. Copies are 0.4 of the
// floor's time and a third of ours. A round trip is four wakeups; the floor has them too.
//
// What we add to the floor was priced by leaving it out, in alternating rounds of one stream. The headers of packets that are received,
// when each was read in full, cost 1.05 in throughput; the checksums of what is received 1.02. The floor itself is 1.16 times as fast
// with a thread for each direction, in blocking calls, as with one that lingers. Ours is not: the more often it is woken the less it
// finds to join, and it lost 0.05 with two threads that wait in ppoll.
//
// What gained nothing, measured side by side: threads in blocking calls (0.33 where one for both ways made 0.47, and longer round
// trips); no lingering, or more of it; less read before it is sent, more or less before it is written, datagrams sent as soon as they are
// full; pods whose super-packets fit into one datagram (a loss of 0.1); and, of the floor, NAPI on the TUN, huge pages, threads bound to
// processors. Smaller TCP windows, to keep what is under way in the caches, made it slower.
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
