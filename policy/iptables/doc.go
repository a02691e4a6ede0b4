// Package iptables enforces policies where nftables is not to be used: it keeps a node's iptables rules and ipsets as a
// [policy.Ruleset] says, with the programs iptables-restore and ipset, in their legacy and their nft variant. What the kernel then
// does with a connection's first packet is what [policy.Ruleset.Evaluate] says of it.
//
// A [Driver] has chains and sets of its own, whose names begin with "pw" and four letters that stand for its owner. Each family has
// the same:
//
//	ipset create pw….4?p…    hash:ip       # pods that a peer selects, shared by all policies
//	             pw….4?b…    hash:net      # the blocks of a rule
//	             pw….4?n…    hash:ip,port  # where pods have a port of one name
//	             pw….4?k…    hash:ip       # the pods of one class: all policies of some pods
//
//	*mangle
//	-A POSTROUTING -j pw…-policies                                      # the first rule there, and put back if it is not
//	-A pw…-policies -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
//	-A pw…-policies -j pw…-egress
//	-A pw…-policies -j pw…-ingress
//	-A pw…-ingress -m set --match-set pw…-ingress dst -g pw…-ingress-classes
//	-A pw…-ingress-classes -m set --match-set pw….4?k… dst -g pw…k…      # one rule for each class
//	-A pw…k… -p tcp -m set --match-set pw….4?p… src -m multiport --dports 80 -j RETURN
//	-A pw…k… -j DROP
//
// Classes are entered by goto, so that a rule which allows a packet says RETURN and the packet goes on with the next direction: there
// is no mark to share with other programs, and nobody's rules are skipped, as an ACCEPT would. POSTROUTING of mangle stands behind
// the translation of Service addresses and before masquerade, and sees what the node forwards as well as what it sends itself:
// with kube-proxy's IPVS mode the packets of Services come from there, and never come by FORWARD.
//
// So a packet of a connection under way costs one rule, however many pods and policies there are. A first one of a pod that no
// policy speaks of costs a lookup in each direction, and one of another pod a lookup for each class of its node (which has at most
// as many as it has pods) and its own policies.
//
// Every packet is judged as it was before a change or as it is after. All rules of a family change in one transaction of
// iptables-restore. Sets have none, so that a set which changes is made anew under a second name (the ? above is a, then b, then a
// again) that rules lead to from that transaction on. Only where no packet could tell the difference, and that is a pod that comes,
// goes, or changes its labels within its class, elements are put in and taken out one by one. See gradually for why, and why that
// may end halfway too: the next pass goes on from there.
//
// [Text] shows all that without making it. A restarted driver reads what is there, finds it as it should be, and writes nothing.
//
// What will surprise you: between ports of one bridge the kernel asks no such chain unless br_netfilter is on, so name the bridges
// in [Spec.Bridges]. Packets that a pod sends to its own node never come by. A connection that has begun goes on whatever becomes
// of its policies. Nobody tells when an ipset is tampered with: that is repaired when a [podweft.Loop] next reads everything.
//
// The driver does not follow connections, does not stop a pod from using another's address, and does not start before its first
// Apply: who wants new pods closed until their rules are there says so with [Spec.Closed]. It takes the kernel's ip_set, xt_set,
// xt_bpf, xt_multiport, xt_addrtype, xt_comment and xt_conntrack, for IPv6 xt_hl, and for [Config.LogGroup] xt_NFLOG.
package iptables
