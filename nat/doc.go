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
// What will surprise you: the first rule leaves packets with kube-proxy's mark to kube-proxy, which masquerades them by
// rules of its own. Connections that are under way keep the address they began with, whatever is changed. The node forwards
// nothing unless net.ipv4.ip_forward and net.ipv6.conf.all.forwarding are set, which this package does not do; nor does it
// accept forwarded packets that another program's rules drop, publish host ports, or masquerade what comes from elsewhere.
package nat
