package fib_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/podweft/podweft/internal/fib"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/testnet"
)

// A route by a gateway on eth0, and no route any more.
func ExampleTable() {
	ctx := context.Background()
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
	eth0, err := conn.Link("eth0")
	if err != nil {
		log.Fatal(err)
	}

	table := fib.New(conn, fib.Mark{Protocol: 200, First: 1 << 30}, nil)
	scope := fib.Scope{Others: map[int]string{eth0.Index: eth0.Name}}
	entry := fib.Entry{Routes: []fib.Route{{
		Prefix: netip.MustParsePrefix("10.244.2.0/24"), Gateway: netip.MustParseAddr("192.0.2.2"), Link: eth0.Index,
	}}}
	plan, err := table.Apply(ctx, scope, []fib.Entry{entry})
	fmt.Print(plan)
	fmt.Println(err)
	plan, err = table.Change(ctx, scope, []fib.Entry{entry}, nil)
	fmt.Print(plan)
	fmt.Println(err, table.Reads())
	// Output:
	// + nexthop 1073741824 via 192.0.2.2 dev eth0
	// + route 10.244.2.0/24 via 192.0.2.2 dev eth0 nhid 1073741824
	// <nil>
	// - route 10.244.2.0/24 via 192.0.2.2 dev eth0 nhid 1073741824
	// - nexthop 1073741824 via 192.0.2.2 dev eth0
	// <nil> 1
}
