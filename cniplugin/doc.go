// Package cniplugin is a CNI plugin as a library: it answers the calls by which a container runtime attaches pods to a node's
// network, with packages bridge, ipam and nat, and without starting a program for any of it.
//
//	func main() {
//		os.Exit(cniplugin.Run(context.Background(), cniplugin.Config{}, cniplugin.SystemCall(filepath.Base(os.Args[0]))))
//	}
//
// Such a program serves a node alone, by the name that it is called: as flannel it takes that plugin's configuration
// unchanged, as portmap it opens host ports, as loopback it brings a pod's loopback link up, and as anything else it takes its
// own, which is the bridge plugin's with host-local's, where the node's lease is all that must be known:
//
//	{"cniVersion": "1.1.0", "name": "pods", "type": "podweft-cni", "capabilities": {"portMappings": true}}
//
// As ptp, or where its configuration has "mode": "ptp", it attaches pods by routed links of package ptp, without a bridge. A pod's
// addresses then have their full length, its gateways are the same everywhere, and what the configuration says of gateways and of
// the bridge does not matter.
//
// Where the configuration's ipam has the type podweft-agent, an [Agent] of the node gives the addresses, such as those of blocks
// that nodes claim of a pool.
//
// All of CNI 1.1 is served, ADD, DEL, CHECK, GC, STATUS and VERSION, and every version since 0.1.0. Plugins of other types,
// as delegates or for addresses, are run from CNI_PATH as the specification says.
//
// # What is promised
//
// A DEL needs nothing but what this package has recorded on the node: the pod's namespace, the lease, the configuration's
// ranges and the previous result may be gone. It succeeds for what was never there. One that fails to take the pod's link
// leaves it its address too, and works when it comes again. A CHECK goes by the lease of the ADD while the node has none. An ADD
// that fails leaves nothing behind, and one that was killed is cleaned up by the DEL or the GC that follows (but see below), or
// completed by the next ADD. What was recorded before a reboot is void.
//
// A call waits for 20 seconds for a lock that a stopped process holds, and for half a minute for an agent that hangs. An error says what
// to do about it, and what could not be undone.
//
// A node that ran the bridge plugin with host-local is taken over as it is: its bridge, the addresses its pods hold, and
// what flannel's plugin noted of them. Pods go on, and a later DEL cleans up after them: it also removes what the reference
// plugins' portmap and ipMasq wrote for a pod, with either kind of iptables (the old tables by their own program, if it is installed)
// or with nftables. GC does so too, that of portmap behind another plugin included, for pods whom the rules name with their network, or
// whose addresses were taken over or are in host-local's directory: portmap's rules in nftables name the container alone.
//
// A node's lasting process may run an [Agent], which then waits for the kernel in the plugins' stead: a DEL takes the pod's link
// out of use and returns, and the agent deletes many such links at once. It also keeps, by the plugins' records, the host ports of pods
// that live and the masquerading of each network: what somebody else has removed, as by nft flush ruleset, is back in milliseconds.
// Plugins find it by its socket, and do all by themselves where there is none; host ports then stay away until the pod is attached
// anew, and masquerading until the next ADD.
//
// # Fields of the reference plugins
//
// Where a configuration asks for host ports, as portmap's or as that of the plugin which attaches the pod, it may have portmap's own
// fields; flannel's may have them beside its delegate or in it. With "snat": false no sender gets another address: the pod itself, the
// node through 127.0.0.1 and, on a bridge that br_netfilter does not watch, the pods beside it then get no answer. What each was given
// at its ADD stays so, for an agent and for CHECK too. The limits that are the bandwidth plugin's fields count as they do there.
//
// Some say how the reference plugins work, and not what comes of it; they are taken and change nothing. A backend and an ipMasqBackend
// may be iptables or nftables: we write tables of nftables, which iptables -S does not show, and beside which the rules of iptables go
// on to work. A markMasqBit or an externalSetMarkChain is how portmap marks packets that a later rule masquerades: ours finds them
// itself, and marks none. What portmap would not take of these is an error with the first host port. A bridge's forceAddress
// need not be asked for: its addresses become those that the configuration says. Its promiscMode, by which pods were to reach themselves
// through a Service or a host port of their own, does not make them (Linux 6.1, 6.18, with br_netfilter): write hairpinMode.
//
// Refused, with the code for a field that is not supported, are vlan, vlanTrunk, macspoofchk, disableContainerInterface, enabledad, in
// ipam.routes all but dst and gw, for routed pods portIsolation, and, where host ports are asked for, conditionsV4, conditionsV6 and
// masqAll.
//
// # What will surprise you
//
// Without an agent a DEL takes some 20 ms, for which the kernel makes whoever deletes a link wait. An agent that is
// killed while a DEL closes a host port may leave it open, until there is an agent again. Where an agent gives the addresses, an ADD that
// was killed before its link bore a mark is cleaned up by its DEL and not by a GC, which knows such links by the addresses in the
// plugin's own store.
//
// An Agent with a [Gate], such as package policy/gate has, lets an ADD return only when the policies that select the pod are in
// force. While no agent runs, pods start all the same, unless the configuration has "requireAgent": true, which fails such an
// ADD with code 11, for the runtime to try again. What a pod that nobody has let in can reach is for the kernel to say: with
// the node's pod prefixes in the Closed of policy/nftables or policy/iptables, that is its own node, also while no agent runs.
//
// A pod may have several interfaces, of one network or of several. Where two have a route to the same prefix, as default routes do,
// the first stays the way, and the other's stands behind it with a metric of 2000 and more, until the first is deleted. What comes to
// the second from farther away than its own routes is thus answered by the first, where the node drops the IPv4 answer of a routed
// one (ptp): chain the sbr plugin for it, with which each interface has a routing table of its own. The reference's bridge plugin appends
// its IPv6 default route to ours, and the kernel then takes either for each connection. CHECK asks whether ours is there, and it is.
//
// That masquerading stands is seen by the kernel's numbers for its table and chain: what somebody does to the elements of its sets
// goes unnoticed here, but for an agent.
//
// A network is one owner: its links and tables bear its name, and two networks cannot share a bridge. Addresses and records
// lie below [DefaultStateDir], and not where host-local has them. Masquerading is per node, not per pod: a network's table
// stays when its last pod has gone, and when the configuration no longer asks for it. To be rid of it, remove the file of the network's
// name in masquerade, below that directory, and then the table. What a pod sends is limited at its own end of the pair, where a pod that
// may change its links can take the limit off: chain the bandwidth plugin for such.
package cniplugin
