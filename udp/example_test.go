package udp_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"
	"os/signal"

	"golang.org/x/sync/errgroup"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/udp"
)

// A node by hand, without a lease store: it knows what is behind the other.
func Example() {
	fabric, err := testnet.Build(testnet.FabricConfig{V4: netip.MustParsePrefix(testnet.DefaultV4)})
	if err != nil {
		log.Fatal(err)
	}
	defer fabric.Close()
	one, two := fabric.Nodes[0], fabric.Nodes[1]

	driver, err := udp.New(udp.Config{NetNS: one.NetNS()}) // on a real node: udp.Config{}
	if err != nil {
		log.Fatal(err)
	}
	defer driver.Close()
	spec := udp.Spec{
		Device: "eth0", Local: []netip.Addr{one.V4},
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/32")},
		Networks:  []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		Peers:     []udp.Peer{{Node: "node-2", Underlay: two.V4, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24")}}},
	}
	plan, err := driver.Plan(context.Background(), spec) // a dry run
	fmt.Print(plan)
	fmt.Println("error:", err)
	// Output:
	// + socket udp 192.0.2.1:8285
	// + link flannel0 type tun mtu 1472
	// + address 10.244.1.0/32 dev flannel0
	// + peer [10.244.2.0/24] (node-2) at 192.0.2.2:8285
	// + nexthop 1217986560 dev flannel0
	// + route 10.244.0.0/16 dev flannel0 nhid 1217986560
	// error: <nil>
}

// What a program does: a Loop keeps the overlay as it should be, and Forward, beside it, moves the packets.
func ExampleDriver_Forward() {
	driver, err := udp.New(udp.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer driver.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	loop := podweft.NewLoop(driver, podweft.LoopConfig{})
	loop.Set(udp.Spec{}) // what should be: by hand, or by Compile from everybody's leases
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return loop.Run(ctx) })
	group.Go(func() error { return driver.Forward(ctx) })
	if err := group.Wait(); err != nil {
		log.Print(err)
	}
}
