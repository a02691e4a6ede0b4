// Package gate holds a pod back until its policies are in force, and until then nobody else.
//
// Between a pod's address and its labels lies a race: its plugin knows the one as soon as it is given out, and the API server the
// other, and a pod that runs before both have come together is one that no policy selects. A [Gate] stands where they meet. It is
// told what changes in the cluster, compiles it and hands it to a driver's loop; and it answers a plugin that asks for a pod, when
// the kernel has the rules of that pod at those addresses:
//
//	cluster ── Update ──> Gate ── Ruleset ──> Loop ──> kernel
//	                       ^                             │
//	plugin ── Attach ──────┘ <── nil: it is in force ────┘
//
//	loop := podweft.NewLoop(driver, podweft.LoopConfig{})
//	g, err := gate.New(gate.Config[nftables.Spec]{Node: "node-1", Loop: loop, Spec: func(rules *policy.Ruleset) nftables.Spec {
//		return nftables.Spec{Rules: rules, Closed: podPrefixes}
//	}})
//
// Attach and Detach are made for a [local.Handler], such as the Agent of package cniplugin, which takes a Gate as it is. What a
// plugin does with an answer other than nil is to fail with the CNI code for "try again later" (11): the runtime calls it again, and
// the pod does not start.
//
// And if nobody answers? That is decided in the kernel, not here, and closed is what to choose: with the node's pod prefixes in
// the driver's Closed (see policy/nftables), an address that no rules speak of is cut off from everybody but its own node, also
// while no agent runs, since its rules stay. A plugin may then go on without an agent, and the pod has no network but its node
// until one comes. Without Closed such a pod is open for so long.
//
// It fails closed on purpose: where the Spec names bridges and the kernel has no br_netfilter, the driver closes the bridges, no pass
// of the loop succeeds, and every Attach is answered with "try again later" until the module is there. What the loop says of its
// last pass names it.
//
// The package enforces nothing itself, reads no cluster, and listens to no socket. It goes by the names of pods, since policies
// do: a pod that was deleted and made anew under its name is told from the old one by the old one's end.
package gate
