package testnet_test

import (
	"context"
	"fmt"
	"log"
	"testing"

	"github.com/podweft/podweft/testnet"
)

// A program that builds a network, uses it and leaves nothing behind, as any user.
func Example() {
	if err := testnet.Enter(); err != nil { // first thing in main
		log.Fatal(err)
	}
	fabric, err := testnet.Build(testnet.FabricConfig{Nodes: 3, Outside: true})
	if err != nil {
		log.Fatal(err)
	}
	defer fabric.Close()

	for _, to := range append(fabric.Nodes[1:], fabric.Outside) {
		for _, addr := range to.Addrs() {
			_, err := fabric.Nodes[0].Ping(context.Background(), addr)
			fmt.Println(to.Name, addr, err)
		}
	}
	// Output:
	// node2 192.0.2.2 <nil>
	// node2 2001:db8::2 <nil>
	// node3 192.0.2.3 <nil>
	// node3 2001:db8::3 <nil>
	// outside 203.0.113.1 <nil>
	// outside 2001:db8:ffff::1 <nil>
}

// A test, in a package whose TestMain calls Main.
func ExampleNewFabric() {
	_ = func(t *testing.T) {
		f := testnet.NewFabric(t, testnet.FabricConfig{MTU: 9000})
		if _, err := f.Nodes[0].Echo(t.Context(), f.Nodes[1].V4, testnet.Echo{Size: 9000, DontFragment: true}); err != nil {
			t.Error(err)
		}
	}
}
