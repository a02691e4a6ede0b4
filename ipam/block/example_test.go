package block_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/podweft/podweft/ipam"
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

// A node gives its pods addresses of whatever blocks it takes.
func ExampleAllocator() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "ipam")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c, err := block.New(block.Config{
		Store: memory.New(), Node: "node-1",
		Pools: []block.Pool{{Prefix: netip.MustParsePrefix("10.244.0.0/24"), BlockBits: 31}},
	})
	if err != nil {
		log.Fatal(err)
	}
	node, err := block.NewAllocator(ctx, block.AllocatorConfig{
		Claimers: []*block.Claimer{c},
		IPAM:     ipam.Config{Path: filepath.Join(dir, "ipam")},
		Gateways: []netip.Addr{netip.MustParseAddr("169.254.1.1")},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	for _, container := range []string{"web", "db", "cache"} {
		held, err := node.Allocate(ctx, ipam.Owner{Network: "pods", Container: container, Interface: "eth0"})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(container, held.Addresses[0].Prefix, "via", held.Addresses[0].Gateway)
	}
	blocks, err := c.Shares(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(blocks)
	// Output:
	// web 10.244.0.194/32 via 169.254.1.1
	// db 10.244.0.195/32 via 169.254.1.1
	// cache 10.244.0.196/32 via 169.254.1.1
	// [10.244.0.194/31 of node-1 10.244.0.196/31 of node-1]
}
