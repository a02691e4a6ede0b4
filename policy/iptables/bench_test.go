package iptables_test

import (
	"fmt"
	"testing"

	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/iptables"
)

// BenchmarkPacket is what policies add to what a packet costs: see world.Packets. A first packet is asked about by each class of its
// node until its own has been found: at most two for each pod that is there. Policies that sleep leave the table and its
// connection tracking in the packet's way, without the rule that leads to them.
func BenchmarkPacket(b *testing.B) {
	withPrograms(b)
	loads := []world.Load{
		{}, {Policies: 1}, {Nodes: 1000, Policies: 1}, {Nodes: 100}, {Nodes: 100, Policies: 1}, {Nodes: 100, Policies: 10}, {Nodes: 100, Policies: 100},
	}
	for _, v := range variants {
		b.Run(string(v), func(b *testing.B) {
			world.Packets(b, keep(iptables.Config{Variant: v}), loads, func(t testing.TB, n *world.Node) func(bool) {
				return func(asleep bool) {
					script := "*mangle\n-F POSTROUTING\n"
					if !asleep {
						script += "-A POSTROUTING -j pwubbu-policies\n"
					}
					output(t, n.Node, []byte(script+"COMMIT\n"), fmt.Sprintf("iptables-%s-restore", v), "--noflush")
				}
			})
		})
	}
}
