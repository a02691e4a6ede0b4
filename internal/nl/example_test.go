package nl_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/testnet"
)

// Three requests in one system call, of which one fails.
func ExampleConn_Do() {
	fabric, err := testnet.Build(testnet.FabricConfig{Nodes: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer fabric.Close()
	conn, err := nl.Dial(fabric.Nodes[0].NetNS())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	var batch nl.Batch
	for _, gateway := range []string{"192.0.2.2", "203.0.113.9", "192.0.2.3"} {
		gateway := netip.MustParseAddr(gateway)
		batch.AddRoute(nl.Route{
			RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: netip.PrefixFrom(gateway, 32)}, Protocol: 200, Gateway: gateway,
		})
	}
	for i, err := range conn.Do(context.Background(), &batch) {
		fmt.Println(i, err)
	}
	// Output:
	// 0 <nil>
	// 1 network is unreachable (Nexthop has invalid gateway)
	// 2 <nil>
}
