// Package calico is a node's agent for a pod network as Calico makes it, from this SDK's parts: each node is a router, with a link
// and a route for each of its pods and no bridge. Nodes claim blocks of addresses from pools and tell each other of them by BGP, or
// through the store. Packets to other nodes travel as they are where the fabric knows the way, and in VXLAN or IP-in-IP where it does
// not: Never, CrossSubnet or Always, for each pool. A pool may be for some nodes, and for the pods of some namespaces.
//
//	CALICO_IPV4POOL_CIDR=10.244.0.0/16 CALICO_IPV4POOL_VXLAN=CrossSubnet podweft-calico --etcd-endpoints=http://10.0.0.1:2379
//
// What nodes have in common is in etcd, which an agent can run itself, or in Kubernetes: blocks as objects of a kind of their own, each
// node's word on itself at its Node, and policies where they are anyway. deploy/podweft-calico.yml is the manifest, in the form of
// Calico's. While the store is away everything that is in force stays, pods get addresses of the blocks that their node has, and BGP goes
// on.
//
// The command is [Main]: the agent, what a start would change (plan), how a running one is doing (status), the addresses (ipam), and
// the end of it all (cleanup). Nodes that die are forgotten after a while, with their blocks; an operator who knows that one is gone
// need not wait (forget NODE), and has to say so where most are silent at once. The command understands the environment of calico/node
// and Calico's IPPool, BGPPeer, BGPFilter, BGPConfiguration and Node, of which what it cannot do is an error where it would let something
// pass; and, of Kubernetes' Nodes, the annotations projectcalico.org/ASNumber and .../RouteReflectorClusterID. It reads them at start.
//
// An [Agent] can be had without the command, many in one process, each in a network namespace of its own:
//
//	agent, err := calico.New(calico.Config{Node: "node-1", Pools: pools, Blocks: blocks, Nodes: nodes})
//	...
//	err = agent.Run(ctx)
//
// Pods are attached by the CNI plugin podweft-cni, in mode ptp and with the addresses that the agent gives: see [Config.CNIConf].
//
// What Calico, or flannel, has left on a node is named at start and never touched. Where it stands in the way of a link or a route of
// ours, that one fails, and [Status] says so. The agent does not take a cluster over from Calico, and speaks to none of its nodes but
// by BGP.
package calico
