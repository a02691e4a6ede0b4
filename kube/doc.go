// Package kube keeps the nodes' subnet leases in Kubernetes: as annotations of their Node objects, in flannel's own form, so that
// flannel's nodes and ours share a cluster. [Store] is a subnet.Store:
//
//	client, err := rest.InClusterConfig()
//	...
//	store, err := kube.New(kube.Config{Client: client, Network: network})
//	...
//	n, err := node.New(node.Config{Name: nodeName, Store: store, ...})
//
// In Kubernetes the cluster itself gives each node its pod subnets (spec.podCIDRs). What a lease adds is how to reach them, and
// that the node's agent writes down beside them, here with flannel's default prefix:
//
//	flannel.alpha.coreos.com/kube-subnet-manager: "true"
//	flannel.alpha.coreos.com/backend-type: "vxlan"
//	flannel.alpha.coreos.com/backend-data: '{"VNI":1,"VtepMAC":"0e:1d:2c:3b:4a:59"}'
//	flannel.alpha.coreos.com/public-ip: "192.0.2.3"
//
// and, for IPv6, backend-v6-data and public-ipv6. An operator can write two things per family. node-public-ip and node-public-ipv6
// choose the address that the agent uses (see [Store.NodePublicIP]); public-ip-overwrite and public-ipv6-overwrite are what peers
// are told instead of it, such as the outside of a NAT.
//
// # Rights
//
// A Store's agent needs these, which flannel's ClusterRole has; pods only for [Store.NodeOf]:
//
//	rules:
//	- {apiGroups: [""], resources: [nodes], verbs: [list, watch]}
//	- {apiGroups: [""], resources: [nodes/status], verbs: [patch]}
//	- {apiGroups: [""], resources: [pods], verbs: [get]}
//
// # Blocks
//
// A network that gives out blocks of addresses instead of a subnet for each node (package ipam/block) keeps them in a [BlockStore], as
// objects of a kind that the cluster has to be told of first: [BlockDefinition], or blocks.yaml beside this package. Its agent needs
//
//	rules:
//	- {apiGroups: [podweft.github.io], resources: [blocks], verbs: [list, watch, create, update, delete]}
//
// and knows its nodes by a [Roster], in which each Node bears what its agent tells the others of it. [Election] chooses the one that
// collects the blocks of Nodes that were deleted.
//
//	rules:
//	- {apiGroups: [""], resources: [nodes], verbs: [list, watch]}
//	- {apiGroups: [""], resources: [nodes/status], verbs: [patch]}
//	- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]} # in the Lease's namespace
//
// # Load
//
// A watch lists the nodes once, in pages, and then lives on what changes. Of a Node, tens of kilobytes, it keeps the lease alone;
// what kubelets write all the time is not passed on. When the API server goes away, what was read last stays in force, and the
// watch goes on from there without a new list: it asks for one Node, to see that there still is such a place to go on from.
//
// # Policies
//
// [Policies] follows what policies are made of: nodes, namespaces, pods, NetworkPolicies and ClusterNetworkPolicies. What it tells
// goes into a policy.Compiler, or a gate.Gate, as it is:
//
//	source, err := kube.NewPolicies(kube.PoliciesConfig{Client: client})
//	...
//	for c, err := range source.Watch(ctx) {
//		...
//		err = gate.Update(c.Put, c.Gone...)
//	}
//
// # Without a cluster
//
// What the Store does with one Node can be had by itself, as functions of plain objects: [Annotations.Lease] reads one,
// [Annotations.Snapshot] all of them, and [Annotations.Patch] says what has to change on a node for it to show a lease:
//
//	Node ── Lease ──> subnet.Lease ── Patch ──> annotations to change
//	Nodes ─ Snapshot ─> subnet.Snapshot ──> Peers, a driver's Compile
//
// The package gives out no subnets, enforces no policy, and reads no net-conf.json from the cluster: its Network is fixed when a Store is made.
package kube
