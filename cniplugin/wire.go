package cniplugin

import (
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// wiring is one way of joining pods to the node: what there is for each kind of link. A call opens one and closes it.
type wiring interface {
	// attach gives the call's pod its link and tells the result of the ADD, and the name of the node's end.
	attach(n *network, addresses []given, mac mac) (result *types100.Result, hostName string, err error)
	// detach removes the pod's link, which may be gone.
	detach() error
	// retire does so without waiting for the kernel: the pod's link passes nothing any more, and goes with the next sweep.
	retire() error
	// sweep deletes the network's links that were retired.
	sweep() error
	// check reports what is not as attach made it.
	check(n *network, addresses []given, hostName string) error
	// collect removes the links of the network's attachments that are not live: those that bear its mark, and those of suspects,
	// which may not bear it yet.
	collect(live map[attachment]bool, suspects []attachment) error
	Close() error
}

// wiring opens the one that the configuration asks for. Each network is an owner of its own, so that one's garbage is not
// another's.
func (t *task) wiring() (wiring, error) {
	if t.config.routed() {
		return t.routed()
	}
	return t.bridged()
}

// dead are those of either list that are not live, each once.
func dead(live map[attachment]bool, marked, suspects []attachment) (all []attachment) {
	seen := map[attachment]bool{}
	for _, a := range slices.Concat(marked, suspects) {
		if !live[a] && !seen[a] {
			all = append(all, a)
		}
		seen[a] = true
	}
	return all
}
