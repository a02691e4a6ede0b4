package vxlan_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// An overlay of two nodes, written by hand: no lease store, no daemon. Each node is told what is its own and what the other has;
// the driver finds out what is missing and programs it: the VTEP, then ARP, FDB and route.
func Example() {
	ctx := context.Background()
	fabric, err := testnet.Build(testnet.FabricConfig{Nodes: 2}) // two machines on one switch
	if err != nil {
		log.Fatal(err)
	}
	defer fabric.Close()
	one, two := fabric.Nodes[0], fabric.Nodes[1]

	var (
		mac1, mac2       = podweft.MAC{0x0e, 0, 0, 0, 0, 1}, podweft.MAC{0x0e, 0, 0, 0, 0, 2} // podweft.NewMAC(), kept
		subnet1, subnet2 = netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("10.244.2.0/24")
		self1, self2     = netip.MustParsePrefix("10.244.1.0/32"), netip.MustParsePrefix("10.244.2.0/32")
	)
	specs := map[*testnet.Node]vxlan.Spec{
		one: {
			VTEPs: []vxlan.VTEP{{VNI: 1, Device: "eth0", Local: one.V4, MAC: mac1, Addresses: []netip.Prefix{self1}}},
			Peers: []vxlan.Peer{{Node: "two", MAC: mac2, Underlay: two.V4, Prefixes: []netip.Prefix{subnet2}}},
		},
		two: {
			VTEPs: []vxlan.VTEP{{VNI: 1, Device: "eth0", Local: two.V4, MAC: mac2, Addresses: []netip.Prefix{self2}}},
			Peers: []vxlan.Peer{{Node: "one", MAC: mac1, Underlay: one.V4, Prefixes: []netip.Prefix{subnet1}}},
		},
	}

	for _, node := range fabric.Nodes {
		driver, err := vxlan.New(vxlan.Config{NetNS: node.NetNS()}) // on a real node: vxlan.Config{}
		if err != nil {
			log.Fatal(err)
		}
		defer driver.Close()
		plan, err := driver.Apply(ctx, specs[node]) // podweft.NewLoop(driver, ...) keeps it so
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s:\n%s", node.Name, plan)
	}

	_, err = one.Ping(ctx, self2.Addr())
	fmt.Println("ping over the overlay:", err)
	// Output:
	// node1:
	// + link flannel.1 type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472 mtu 1450 address 0e:00:00:00:00:01
	// + address 10.244.1.0/32 dev flannel.1
	// + neighbour 10.244.2.0 lladdr 0e:00:00:00:00:02 dev flannel.1 permanent
	// + fdb 0e:00:00:00:00:02 dev flannel.1 dst 192.0.2.2 self permanent
	// + nexthop 1682833408 via 10.244.2.0 dev flannel.1 onlink
	// + route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink nhid 1682833408
	// node2:
	// + link flannel.1 type vxlan id 1 local 192.0.2.2 dev eth0 dstport 8472 mtu 1450 address 0e:00:00:00:00:02
	// + address 10.244.2.0/32 dev flannel.1
	// + neighbour 10.244.1.0 lladdr 0e:00:00:00:00:01 dev flannel.1 permanent
	// + fdb 0e:00:00:00:00:01 dev flannel.1 dst 192.0.2.1 self permanent
	// + nexthop 1682833408 via 10.244.1.0 dev flannel.1 onlink
	// + route 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink nhid 1682833408
	// ping over the overlay: <nil>
}
