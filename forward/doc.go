// Package forward lets pods' packets through a host's firewall that forwards nothing by default. Docker makes a host so: it gives
// iptables' FORWARD chain the policy DROP, and a node then answers to its own address while none of its pods hears from another
// node.
//
// Only the chain that drops can let a packet through: another table's verdict, ours included, is one more opinion, and the first
// to drop wins. So a [Driver] puts its rules where the policy is, at the end of FORWARD: they accept what nobody before them has
// refused, and the rules of others, policies of pods among them, have their say first. There are none where the policy accepts,
// and they come back when somebody flushes the chain.
//
// The chain is that of iptables' table filter, for IPv4 and for IPv6, in nf_tables (iptables-nft, the usual one today) and in the
// old tables (iptables-legacy). The first is read, watched and changed over netlink, without running anything. The old tables have
// no way in that is meant for anybody but their own program: where a host has an old table filter, iptables-legacy is run, and only
// there. Such a host needs that program, whatever the table's policy is, for nothing else can tell. They tell nobody when they
// change, so they are looked at as often as the [podweft.Loop] resyncs: [Resync] is often enough.
//
// The package opens no other firewall: in a table that somebody wrote for nft, firewalld's for one, he has to accept pods himself.
package forward
