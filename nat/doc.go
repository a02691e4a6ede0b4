// Package nat gives a node's pods the node's own address when they talk to the world outside the cluster (masquerade), so
// that answers find their way back. Between pods nothing is translated.
//
// A [Driver] keeps one nftables table of its own, of family inet: a rule for each address family, and sets of prefixes that
// say whose packets are meant. A pod that comes or goes changes nothing, another prefix changes one set element. Source
// ports are chosen fully at random: two pods that open connections at the same moment then do not pick the same one, which
// loses packets.
//
//	table inet podweft-nat {
//		set pods4 { ... }      # Spec.Masquerade, and pods6
//		set exempt4 { ... }    # Spec.Exempt, the pods themselves, multicast; and exempt6
//		chain postrouting {
//			type nat hook postrouting priority srcnat; policy accept;
//			meta mark & 0x00004000 == 0x00004000 return
//			ip saddr @pods4 ip daddr != @exempt4 masquerade fully-random
//			ip6 saddr @pods6 ip6 daddr != @exempt6 masquerade fully-random
//		}
//	}
//
// A [Ports] keeps a second table: the ports of the node that lead to pods. Each is an element of a map, so that one more or
// less costs a fraction of a millisecond and no rule, whatever their number:
//
//	table inet podweft-hostports {
//		map ports4 { ... }     # tcp . 8080 : 10.244.1.2 . 80; and ports6, and addrports4 for those open on one address
//		chain hostports {
//			dnat ip to meta l4proto . th dport map @ports4
//			...
//
// They are reached from outside, from the node (through 127.0.0.1 too, where net.ipv4.conf.LINK.route_localnet is set for
// the link to the pods) and from pods, the one behind the port included, if its bridge port has hairpin on. Senders keep their
// address, but for those whose answers would go past the node; at a [HostPort] with KeepSource these do too, and are mostly left
// without an answer. A process that attaches one pod calls Add and Remove; an agent that knows all pods keeps the table by a
// podweft.Loop.
//
// What will surprise you: the first rule leaves packets with kube-proxy's mark to kube-proxy, which masquerades them by
// rules of its own. Connections that are under way keep the address they began with, whatever is changed. The node forwards
// nothing unless net.ipv4.ip_forward and net.ipv6.conf.all.forwarding are set, which this package does not do; nor does it
// accept forwarded packets that another program's rules drop, or masquerade what comes from elsewhere. ::1 leads to no pod,
// since the kernel has no route_localnet for IPv6.
package nat
