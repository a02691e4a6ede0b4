// Package roster is who the nodes of a cluster are, where no orchestrator tells: their names, where their underlay addresses
// are, what their BGP speakers and tunnels need to know of each other, and which of them live.
//
//	member, err := roster.NewMember(roster.MemberConfig{Store: store, Node: roster.Node{Name: "node-1", Underlay: addrs, AS: 64512}})
//	...
//	go member.Run(ctx) // this node is known, and counts as alive
//
//	for nodes, err := range roster.Follow(ctx, store) {
//		for _, n := range nodes { ... } // a session with each; n.Lease(prefix) is what drivers compile their Spec from
//	}
//
// A network that gives each node a subnet has all that in its leases, and needs no roster (package subnet). One that gives out
// blocks of addresses does: a node may have many of them, or none yet (package ipam/block).
//
// # Known and alive
//
// A node that has joined is known until it is forgotten, and alive as long as it says so now and then. They are two things
// because most readers must not care about the second: a node whose agent is restarted, or cut off from the store, goes on to
// carry its pods' packets, so sessions and routes are for all nodes that are known.
//
// Who lives decides on two questions. Which node does what only one is to do: the one that has lived longest, [Nodes.Leader]. It
// is nobody's lock: while nodes see the roster at different moments there may be two leaders or none, so what a leader does
// must be harmless when two do it. And whose belongings may be taken: [Silent] and [Gone] are a word on that for
// block.Collect, which wants it twice, a grace apart. Where most nodes are silent at once nobody counts as dead: see [ErrCut].
// Dead nodes that have nothing left are to be forgotten, or they outnumber the living in time: block.Collector does that as well.
// One that comes back is known again by itself.
//
// The package does not look whether a node can be reached, and does not choose a node's name: two nodes of one name are one to it.
package roster
