package hostgw_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/testnet"
)

// Two nodes on one link, no lease store: each knows by hand what is behind the other.
func Example() {
	ctx := context.Background()
	fabric, err := testnet.Build(testnet.FabricConfig{Nodes: 2})
	if err != nil {
		log.Fatal(err)
	}
	defer fabric.Close()
	one, two := fabric.Nodes[0], fabric.Nodes[1]

	driver, err := hostgw.New(hostgw.Config{NetNS: one.NetNS()}) // on a real node: hostgw.Config{}
	if err != nil {
		log.Fatal(err)
	}
	defer driver.Close()
	spec := hostgw.Spec{
		Device: "eth0",
		Peers: []hostgw.Peer{
			{Node: "node-2", Underlay: two.V4, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24")}},
			{Node: "node-2", Underlay: two.V6, Prefixes: []netip.Prefix{netip.MustParsePrefix("fd00:244:0:2::/64")}},
		},
	}

	plan, err := driver.Apply(ctx, spec) // podweft.NewLoop(driver, ...) keeps it so
	fmt.Print(plan)
	fmt.Println("error:", err)

	plan, err = driver.Apply(ctx, spec)
	fmt.Println("changes the second time:", len(plan), err)
	// Output:
	// + nexthop 2079195136 via 192.0.2.2 dev eth0
	// + nexthop 2079195137 via 2001:db8::2 dev eth0
	// + route 10.244.2.0/24 via 192.0.2.2 dev eth0 nhid 2079195136
	// + route fd00:244:0:2::/64 via 2001:db8::2 dev eth0 nhid 2079195137 metric 1024
	// error: <nil>
	// changes the second time: 0 <nil>
}
