package block_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ipam/block/memory"
)

// Two nodes share a pool of two blocks.
func Example() {
	ctx := context.Background()
	store := memory.New() // on a real cluster: one that all nodes reach
	pools := []block.Pool{{Prefix: netip.MustParsePrefix("10.244.0.0/25")}}
	for _, node := range []string{"node-1", "node-2", "node-3"} {
		c, err := block.New(block.Config{Store: store, Node: node, Pools: pools})
		if err != nil {
			log.Fatal(err)
		}
		share, err := c.Claim(ctx, netip.Addr{})
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(share)
	}
	// Output:
	// 10.244.0.64/26 of node-1
	// 10.244.0.0/26 of node-2
	// claim for node-3: no free block in 10.244.0.0/25
}
