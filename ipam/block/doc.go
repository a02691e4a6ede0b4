// Package block divides pools of addresses among nodes: a node claims a block of 64 addresses when it needs one, and returns
// it when it is empty. So a cluster of a thousand nodes needs no subnet for each, and a pool serves busy nodes and idle ones
// alike.
//
//	claimer, err := block.New(block.Config{Store: store, Node: "node-1", Pools: []block.Pool{{Prefix: pool}}})
//	...
//	share, err := claimer.Claim(ctx, netip.Addr{}) // 10.244.3.64/26 of node-1
//	...
//	err = claimer.Return(ctx, share.Prefix)
//
// What a node gets is a [Share]: the whole block, or where the [Pool] lets nodes borrow, a part of one. Until it returns the
// share, the node gives out the addresses of it by itself, and needs the [Store] for nothing. An [Allocator] does both: it
// gives pods addresses with package ipam, and claims and returns blocks as they come and go.
//
// # What is promised
//
// No address is ever in the shares of two nodes. Each change is one compare-and-swap of one block in the Store, so a node
// may die at any instant, and any number of nodes may claim at once. What a node has claimed and forgotten it finds with
// [Claimer.Shares]; what a dead node has, others take back with [Collect], on somebody's word that it is dead, given twice. A
// [Collector] does that all the time, on one node of the cluster: package roster knows who lives and who leads, and forgets a
// dead node that has nothing left. Where only an operator knows that a node is gone, [Free] takes his word for it.
//
// A block is of its node as far as that has a share of it: routes to blocks, not to shares, may then send a borrowed
// address's packets to the wrong node. Routes to shares never do.
//
// This package sets no route, and does not decide which node may use which pool.
package block
