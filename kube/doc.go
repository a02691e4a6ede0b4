// Package kube reads and writes a node's subnet lease in Kubernetes: as annotations of its Node object, in flannel's own form,
// so that flannel's nodes and ours share a cluster.
//
// In Kubernetes the cluster itself gives each node its pod subnets (spec.podCIDRs). What a lease adds is how to reach them, and
// that the node's agent writes down beside them, here with flannel's default prefix:
//
//	flannel.alpha.coreos.com/kube-subnet-manager: "true"
//	flannel.alpha.coreos.com/backend-type: "vxlan"
//	flannel.alpha.coreos.com/backend-data: '{"VNI":1,"VtepMAC":"0e:1d:2c:3b:4a:59"}'
//	flannel.alpha.coreos.com/public-ip: "192.0.2.3"
//
// and, for IPv6, backend-v6-data and public-ipv6. [Annotations.Lease] reads one node, [Annotations.Snapshot] all of them, and
// [Annotations.Patch] says what has to change on a node for it to show a lease. Three functions of plain objects, they need
// no cluster:
//
//	Node ── Lease ──> subnet.Lease ── Patch ──> annotations to change
//	Nodes ─ Snapshot ─> subnet.Snapshot ──> Peers, a driver's Compile
//
// An operator can write two things per family. node-public-ip and node-public-ipv6 choose the address that the agent uses (see
// [Annotations.NodePublicIP]); public-ip-overwrite and public-ipv6-overwrite are what peers are told instead of it, such as the
// outside of a NAT, and Patch sees to them.
//
// The package watches nothing and talks to no API server: where the nodes come from and who sends the patch is its user's
// business. It gives out no subnets either.
package kube
