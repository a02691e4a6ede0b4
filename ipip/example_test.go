package ipip_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/podweft/podweft/ipip"
	"github.com/podweft/podweft/testnet"
)

// What a node would do to reach the pods of another one. Apply does it; it needs the kernel's module ipip.
func Example() {
	if err := testnet.Enter(); err != nil { // a network to try it in, without root
		log.Fatal(err)
	}
	fabric, err := testnet.Build(testnet.FabricConfig{Nodes: 2})
	if err != nil {
		log.Fatal(err)
	}
	defer fabric.Close()
	self, peer := fabric.Nodes[0], fabric.Nodes[1]

	driver, err := ipip.New(ipip.Config{NetNS: self.NetNS()})
	if err != nil {
		log.Fatal(err)
	}
	defer driver.Close()
	plan, err := driver.Plan(context.Background(), ipip.Spec{
		Tunnels: []ipip.Tunnel{{
			Device: "eth0", Local: self.V4,
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/32")},
		}},
		Peers: []ipip.Peer{{
			Node: "node2", Underlay: peer.V4,
			Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24")},
		}},
	})
	fmt.Print(plan)
	fmt.Println(err)
	// Output:
	// + link flannel.ipip type ipip local 192.0.2.1 dev eth0 mtu 1480
	// + address 10.244.1.0/32 dev flannel.ipip
	// + nexthop 1993342976 via 192.0.2.2 dev flannel.ipip onlink
	// + route 10.244.2.0/24 via 192.0.2.2 dev flannel.ipip onlink nhid 1993342976
	// <nil>
}
