// Package nftables enforces policies: it keeps a node's nf_tables as a [policy.Ruleset] says, over netlink, without running any
// program. What the kernel then does with a connection's first packet is what [policy.Ruleset.Evaluate] says of it.
//
// A [Driver] keeps one table of its own, of family inet, in which every other thing is there once for each address family:
//
//	table inet podweft-policy {
//		set p-… { … }                 # pods that a peer selects, shared by all policies; blocks and named ports likewise
//		chain k-…4 {                  # a class: all policies of some pods, with what they allow
//			meta l4proto tcp th dport 80 ip saddr @p-…4 counter accept
//			th dport 53 ip saddr @p-…4 meta l4proto @tcp-udp counter accept   # a port named for both, as DNS is
//			jump c-…4                 # a policy of many rules has a chain of its own
//			jump ingress-own4         # the pod's own node, and the pod itself
//			counter drop
//		}
//		map ingress4 { 10.244.1.10 : goto k-…4, 10.244.1.11 : accept, … }
//		chain ingress-pods4 {
//			ip daddr vmap @ingress4
//			ip daddr @closed4 goto ingress-closed4
//		}
//		chain policies { type filter hook postrouting priority srcnat - 5;
//			ct state == established accept
//			meta nfproto ipv4 jump egress-pods4   # where whatever is allowed returns
//			meta nfproto ipv4 goto ingress-pods4
//			…
//		}
//	}
//
// So a packet of a connection under way costs one rule, however many pods and policies there are; a first one costs a lookup and
// the policies of its own two pods. A pod that comes, goes or changes its labels is a few elements; chains are written only when
// policies change. Packets see a change at once and whole; chains and sets that come with it are made in a transaction before, when
// nothing leads to them yet.
//
// The table is the driver's own where the kernel can have it so (Linux 6.9 and later; [Config.Shared] says otherwise): another program's
// `nft flush ruleset` passes it by, and whoever deletes it or changes something in it gets EPERM; end the agent first. When the
// driver ends, the table stays and is nobody's; the next one reads it, finds it as it should be, and makes it its own, if need be at
// its next look, for the kernel tells nobody that an owner has gone. Leave the table out of rulesets that are saved and loaded again:
// `nft -f` fails as a whole at what belongs to another. On older kernels, what others do to the table is repaired at once, which takes
// as long as it is large; so is what closes bridges, on any kernel.
//
// The chain stands behind the translation of Service addresses and before masquerade, at the one hook that sees what the node
// forwards and what it sends itself: with kube-proxy's IPVS mode the packets of Services come from there. Nobody else's table is
// touched: a drop of theirs stays one, and an accept of theirs does not overrule ours.
//
// [Text] shows the table without making it. The nft program lists addresses in these rules as @nh,96,32 and the like: a packet has
// come there by its family, and the rules do not look at that again.
//
// What will surprise you: between ports of one bridge the kernel asks no such chain unless br_netfilter is on, so name the bridges
// in [Spec.Bridges]. Packets that a pod sends to its own node never come by. A connection that has begun goes on whatever becomes
// of its policies, unless [Spec.Strict] says otherwise. A packet that is under way in the very moment of a change is judged by the
// old rules, but the kernel looks sets and maps up as they are then: a change of both rules and pods at once can meet one packet
// half done.
//
// The driver does not follow connections, does not stop a pod from using another's address, and does not start before its first
// Apply: who wants new pods closed until their rules are there says so with [Spec.Closed].
package nftables
