// Package hostgw makes the pod subnets of other nodes reachable without a tunnel: by one route for each, whose gateway is
// the peer's own underlay address. Nothing is wrapped and the MTU stays whole, but all nodes must be on one link: where a
// router stands between, it would have to know the pod subnets too.
//
// A peer that is not on the link is reported as [ErrOffLink] and left out; the others work. The package attaches no pods,
// leases no subnets and masquerades nothing.
package hostgw
