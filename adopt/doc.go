// Package adopt takes over a node on which flanneld ran, in place: pods keep their addresses and go on talking while one program
// follows the other.
//
//	f, err := adopt.NewFlannel(adopt.Config{})
//	...
//	_, err = f.Begin(ctx, snap) // before the node's backend runs
//	...                            // the node becomes ready
//	_, err = f.Finish(ctx, snap)
//
// What [Flannel.Begin] finds it recognises by flannel's known shape, in nothing but the network of the snapshot that is given:
//
//   - flannel's links (flannel.1, flannel-v6.1, flannel.ipip) with an address or a route in the network get our mark, so that the
//     driver takes them for its own and changes what differs in place. Neighbours and forwarding entries on them are judged by the
//     driver, as its own are;
//   - flannel's routes to other nodes' subnets, by those links or to the address that the subnet's lease names, step back: the same
//     routes are there with a metric that loses to the driver's, which then take their places. At no moment is there none.
//
// [Flannel.Finish] removes the routes that stepped back, where others lead to the subnet or nobody leases it any more, and last
// flannel's rules: its chains in iptables (nf_tables, and the old tables where their program is installed) and its own nftables
// tables. Whatever fails stays, and the next Begin or Finish finds it.
//
// flanneld must have ended before: it would put its rules back every few seconds. The package leases nothing and knows no store: a
// node keeps its subnet because the store has it under the node's address (see subnet/etcd) or name. The bridge cni0 and the pods'
// addresses are the CNI plugin's to take over, which does so by itself.
package adopt
