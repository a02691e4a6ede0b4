// Package node is one node's part in a pod network: it leases the node's subnet, keeps the backend in step with everybody's
// leases, masquerades the node's pods and says when pods can be started. It is what a daemon's main function would otherwise
// be full of, as a library.
//
//	drv, err := vxlan.New(vxlan.Config{})
//	...
//	n, err := node.New(node.Config{
//		Name: "node-1", Store: store, Masquerade: true,
//		Backend: node.NewBackend(node.Parts[vxlan.Spec]{
//			Type: vxlan.Type, Driver: drv, Compile: vxlan.Compile, Publish: vxlan.Publish,
//		}),
//	})
//	...
//	err = n.Run(ctx) // until ctx ends; <-n.Ready() in the meantime
//
// A Node imports no driver: whoever composes one brings a [Backend], made of any podweft.Driver by [NewBackend] or written by
// hand. When Run ends, by ctx or by an error, the network stays as it is and goes on carrying traffic.
//
// The package attaches no pods (see packages bridge and ipam, which want the lease and MTU that [Node.Pods] returns) and
// enforces no policy.
package node
