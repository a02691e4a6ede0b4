package ipam_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/podweft/podweft/ipam"
)

func Example() {
	dir, err := os.MkdirTemp("", "ipam")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()

	pool, err := ipam.Open(ipam.Config{
		Path:     filepath.Join(dir, "ipam"),
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	for _, container := range []string{"web", "db", "web"} {
		pod := ipam.Owner{Network: "pods", Container: container, Interface: "eth0"}
		held, err := pool.Allocate(ctx, pod)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(held.Owner, held.Addresses[0].Prefix, held.Addresses[1].Prefix, "via", held.Addresses[0].Gateway)
	}

	err = pool.Release(ctx, ipam.Owner{Network: "pods", Container: "web", Interface: "eth0"})
	if err != nil {
		log.Fatal(err)
	}
	cache, err := pool.Allocate(ctx, ipam.Owner{Network: "pods", Container: "cache", Interface: "eth0"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(cache.Owner, cache.Addr())

	// Output:
	// pods/web/eth0 10.244.1.2/24 fd00:10:244:1::2/64 via 10.244.1.1
	// pods/db/eth0 10.244.1.3/24 fd00:10:244:1::3/64 via 10.244.1.1
	// pods/web/eth0 10.244.1.2/24 fd00:10:244:1::2/64 via 10.244.1.1
	// pods/cache/eth0 10.244.1.4
}

// CNI's GC gives the attachments that are still valid; whoever else holds an address in that network is dead.
func ExamplePool_Collect() {
	dir, err := os.MkdirTemp("", "ipam")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()

	pool, err := ipam.Open(ipam.Config{
		Path:     filepath.Join(dir, "ipam"),
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	for _, pod := range []ipam.Owner{{"pods", "alive", "eth0"}, {"pods", "crashed", "eth0"}, {"storage", "other", "net1"}} {
		if _, err := pool.Allocate(ctx, pod); err != nil {
			log.Fatal(err)
		}
	}

	valid := map[ipam.Owner]bool{{"pods", "alive", "eth0"}: true}
	freed, err := pool.Collect(ctx, func(_ context.Context, held []ipam.Allocation) (dead []ipam.Owner, err error) {
		for _, a := range held {
			if a.Owner.Network == "pods" && !valid[a.Owner] {
				dead = append(dead, a.Owner)
			}
		}
		return dead, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, a := range freed {
		fmt.Println("freed", a.Addr(), "of", a.Owner)
	}

	// Output:
	// freed 10.244.1.3 of pods/crashed/eth0
}
