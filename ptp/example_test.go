package ptp_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/podweft/podweft/ptp"
	"github.com/podweft/podweft/testnet"
)

// A pod with a link of its own to its node. Both are network namespaces that exist already, as a container runtime makes them;
// their paths are all that is needed.
func Example() {
	ctx := context.Background()
	fabric, err := testnet.Build(testnet.FabricConfig{Nodes: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer fabric.Close()
	node := fabric.Nodes[0]
	blue, err := testnet.BuildNode("blue")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer blue.Close()

	pods, err := ptp.New(ptp.Config{NetNS: node.NetNS()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pods.Close()
	port := ptp.Port{Container: "blue", NetNS: blue.NetNS(), MTU: 1450, Addresses: []netip.Addr{
		netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00:244::2"),
	}}
	at, err := pods.Attach(ctx, port)
	fmt.Println(at.Pod.Name, at.Pod.MTU, err)
	for _, to := range port.Addresses {
		_, err := node.Ping(ctx, to)
		fmt.Println("the node reaches", to, err)
	}
	fmt.Println(pods.Check(ctx, port))
	fmt.Println(pods.Detach(ctx, ptp.Port{Container: "blue"}))
	// Output:
	// eth0 1450 <nil>
	// the node reaches 10.244.1.2 <nil>
	// the node reaches fd00:244::2 <nil>
	// <nil>
	// <nil>
}
