// Package subnet answers one question for a cluster: which node owns which pod subnet, and where are its packets sent?
//
// A [Network] is the cluster's address plan, in flannel's net-conf.json format. A node takes a [Lease] on one subnet of it,
// from a [Store] that all nodes share; subnet/memory and subnet/file are Stores, subnet/storetest tests anybody's own. A
// [Hold] keeps the node's lease through restarts and store outages, a [Feed] delivers what all nodes hold, one [Snapshot]
// after the other, for as long as the node runs:
//
//	Store ── Hold ──> our lease, kept
//	      └─ Feed ──> Snapshot ── Peers ──> the leases of other nodes that a driver may program
//
// The rules that every Store keeps:
//
//   - A claim is a compare-and-swap. No two nodes hold overlapping subnets at any time, also while SubnetLen changes.
//   - A lease belongs to a node's name. The underlay address is an attribute that may change.
//   - Presence means alive: a lease that expired is not in the snapshot. Only one's own expiry is known.
//   - A dual-stack lease is one claim for both families; a network may have IPv6 alone.
//   - A reserved subnet stays reserved: nobody gets it by chance.
//
// What other nodes wrote is input. A lease that makes no sense is skipped and reported as a [Problem]; the others keep
// working.
//
// This package does not touch the kernel: it makes no route, no device and no address. That is what drivers, such as vxlan,
// do with a Snapshot.
package subnet
