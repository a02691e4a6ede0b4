// Package cnitest finds out whether a CNI plugin does what the CNI specification says, whoever wrote it: give it a directory
// of plugins and a network configuration list, and it goes through a checklist of rules, each with the section of the
// specification that it comes from.
//
//	func TestConformance(t *testing.T) {
//		cnitest.Test(t, cnitest.Config{Dir: "/opt/cni/bin", List: conflist})
//	}
//
// Or, without a line of Go, and without root:
//
//	go run github.com/podweft/podweft/cnitest/cmd/cnitest -dir /opt/cni/bin 10-mynet.conflist
//
// Plugins are run as a runtime runs them, through the CNI project's own library where a rule is about a whole list, in the
// calling process's network namespace, which is the node; pods are namespaces that the runner makes. So run it in a
// namespace of its own, as package testnet's Main and Enter give it, and point the configuration's directories at passing
// ones: what a plugin leaves behind stays there.
//
// Give the list a small subnet, a /28: addresses that are never freed are found when it is used up. A plugin that has addresses of its
// own is not asked about delegates, unless its configuration names an ipam.type. Errors that package skel of the CNI project writes
// lack cniVersion (E1); a plugin sets it itself, or lives with that.
//
// The reference plugins do well. Of Debian's 1.1.1, bridge with host-local breaks three rules: E1 (errors lack cniVersion), E5
// (into the node's own namespace it acts first, and leaves links and an address) and D3 (with CNI_NETNS not given, the port
// stays on the node as long as the pod's namespace does); it knows neither STATUS nor GC.
//
// The package does not test whether packets flow, nor what a plugin does beyond the specification.
package cnitest
