// Package podweft is the vocabulary of an SDK for pod overlay networks: importable packages that create VTEPs, program routes,
// neighbours and forwarding entries, lease subnets, attach pods, give them addresses, masquerade them and decide who may talk.
// Each can be used alone; together they make a network like flannel's, or like Calico's.
//
// # One idea
//
// We compare state and never replay events. A caller says what should exist: a Spec, plain data, written by hand or
// compiled from leases. A [Driver] reads what exists, compares, and writes the difference. The first run, a restart, a lost
// notification, somebody's `ip route del` and a lease that moved are then one code path:
//
//	 Store ──> Snapshot ──> Compile ──> Spec ──> Driver ──> Plan ──> kernel
//	(leases    (all of      (pure)     (what     (reads,   (the       │
//	 in etcd,   them at                 should    compares) difference)│
//	 a file)    one time)               exist)       ▲                 │
//	                                                 └──── Watch ◄─────┘
//	                                                "something moved: look again"
//
// A [Plan] is text that a person reads, a dry run of every driver:
//
//   - route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink
//
// A [Loop] owns time: it runs the driver when the Spec changes, when the kernel may have moved, and when something that
// failed is due again. One object that fails delays no other.
//
// # A complete program
//
//	func main() {
//		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
//		defer stop()
//		driver, err := vxlan.New(vxlan.Config{})
//		if err != nil {
//			log.Fatal(err)
//		}
//		loop := podweft.NewLoop(driver, podweft.LoopConfig{Logger: slog.Default()})
//		loop.Set(vxlan.Spec{
//			VTEPs: []vxlan.VTEP{{VNI: 1, Device: "eth0", Local: netip.MustParseAddr("192.0.2.1"), MAC: ownMAC}},
//			Peers: []vxlan.Peer{{
//				Node: "node-2", MAC: peerMAC, Underlay: netip.MustParseAddr("192.0.2.2"),
//				Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24")},
//			}},
//		})
//		err = loop.Run(ctx) // until ctx ends; the network stays up
//	}
//
// # Which package answers your question
//
//   - Who owns which pod subnet? subnet; its Stores are subnet/etcd, subnet/memory, subnet/file and the module kube, and
//     subnet/storetest tests anybody's. What do other routers say? The module bgp. Which nodes are there? roster.
//   - How do packets get to other nodes? vxlan and ipip (tunnels), hostgw (plain routes on one link), udp (user space). Each
//     has a Driver.
//   - How does a pod get onto the node? bridge, or ptp (routed, without one). Which address does it get? ipam; from which blocks
//     of a pool? ipam/block.
//   - How do pods talk to the world, and how is a pod's port reached from outside? nat. What if the host's firewall forwards
//     nothing? forward.
//   - Who may talk with whom, and why? policy. Who sees to it? policy/nftables or policy/iptables, and that no pod
//     starts before it holds, policy/gate. What do Kubernetes' files say? kube/netpol; a cluster, as it changes? kube.
//   - How does all that become one node's network? node. How do its agent and its CNI plugin talk? node/local.
//     How does it take over from flanneld? adopt.
//   - How does a container runtime call it? cniplugin; cnitest tests anybody's plugin.
//   - How do I try or test it, without root? testnet; `go run ./examples/lab` shows everything at work.
//
// # What will surprise you
//
// Close frees sockets and leaves the network up, since a daemon restarts without cutting traffic; Teardown removes it. What
// bears another's mark, or none, is never changed: it is reported as [ErrConflict]. Addresses are net/netip, and both
// families take the same path everywhere. Nothing here logs to a global, exits, panics on input, or registers itself.
package podweft
