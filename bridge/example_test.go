package bridge_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/testnet"
)

// Two pods on a node's bridge. The node and the pods are network namespaces that exist already, as a container runtime
// makes them; their paths are all that is needed.
func Example() {
	ctx := context.Background()
	node, blue, red := namespace("node"), namespace("blue"), namespace("red")
	defer node.Close()
	defer blue.Close()
	defer red.Close()

	pods, err := bridge.New(bridge.Config{NetNS: node.NetNS()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pods.Close()

	cni0 := bridge.Bridge{MTU: 1450, Gateways: []netip.Prefix{
		netip.MustParsePrefix("10.244.1.1/24"),
		netip.MustParsePrefix("fd00:244:0:1::1/64"),
	}}
	at, err := pods.Attach(ctx, cni0, bridge.Port{Container: "blue", NetNS: blue.NetNS(), Addresses: []netip.Prefix{
		netip.MustParsePrefix("10.244.1.2/24"),
		netip.MustParsePrefix("fd00:244:0:1::2/64"),
	}})
	fmt.Println(at.Pod.Name, at.Pod.MTU, "is plugged into", at.Bridge.Name, err)

	_, err = pods.Attach(ctx, cni0, bridge.Port{Container: "red", NetNS: red.NetNS(), Addresses: []netip.Prefix{
		netip.MustParsePrefix("10.244.1.3/24"),
	}})
	fmt.Println(err)

	for _, to := range []string{"10.244.1.1", "fd00:244:0:1::1", "10.244.1.3"} {
		_, err := blue.Ping(ctx, netip.MustParseAddr(to))
		fmt.Println("blue reaches", to, err)
	}

	fmt.Println(pods.Detach(ctx, bridge.Port{Container: "blue"}))
	fmt.Println(pods.Teardown(ctx))
	// Output:
	// eth0 1450 is plugged into cni0 <nil>
	// <nil>
	// blue reaches 10.244.1.1 <nil>
	// blue reaches fd00:244:0:1::1 <nil>
	// blue reaches 10.244.1.3 <nil>
	// <nil>
	// <nil>
}

func namespace(name string) *testnet.Node {
	n, err := testnet.BuildNode(name)
	if err != nil {
		fmt.Println(err)
	}
	return n
}
