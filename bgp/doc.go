// Package bgp spreads pod subnets by BGP, the way routers tell each other what is behind them: a [Speaker] advertises this
// node's blocks to its peers (other nodes, route reflectors, the switch at the top of the rack) and learns theirs.
//
// It is told what should be, never what to do: [Speaker.SetPeers] and [Speaker.Advertise] take whole lists, which are compared
// with what is in force, so that an unchanged session is left alone. It yields whole [Snapshot]s of what it has learned, and
// [Compile] makes of one a subnet.Snapshot, the same as stores yield: from there on hostgw, ipip, vxlan (see [Base.Known]) and a
// podweft.Loop program the kernel just as they do for leases.
//
//	for learned := range speaker.Snapshots(ctx) {
//		spec, problems, err := hostgw.Compile(node, bgp.Compile(base, learned))
//		...
//		loop.Set(spec)
//	}
//
// Both families go over one session, whichever family that session itself has. A peer that fails is counted in [Status] and
// holds nobody else up: whether a node is ready is a question to its data plane.
//
// An external peer, such as the switch at the top of the rack, is told of our own prefixes alone, unless [Peer.Transit] says
// otherwise: it has its paths to the other nodes from them. (Calico's nodes tell it all that they know, with themselves as the next
// hop, or with keepOriginalNextHop the nodes' own.)
//
// # Restarts
//
// With graceful restart, which is on unless switched off, peers keep a node's routes while its process is away, and with
// [Config.StateFile] the process remembers what it had learned, so that its own first snapshot does not remove routes that its
// peers have only to confirm. A Speaker that ends leaves its routes in force for that reason. To leave for good, advertise
// nothing before.
//
// # What will surprise you
//
// The engine, GoBGP, dials from threads of its own, so a Speaker lives in the network namespace of its process. Its options for
// path selection are global to a process too: several Speakers in one process must not begin while others have sessions.
//
// After a session breaks, GoBGP rests for five seconds before it takes a new one.
//
// The package programs no routes, picks no addresses, and does not check that a next hop can be reached: drivers report that.
package bgp
