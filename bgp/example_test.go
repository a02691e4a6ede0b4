package bgp_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"sync"
	"time"

	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/subnet"
)

// A node tells what is behind it and learns what is behind the others. Here both nodes are in one process.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	speaker := func(i byte) *bgp.Speaker {
		s, err := bgp.New(bgp.Config{
			AS:      64512,
			NextHop: subnet.Addrs{V4: netip.AddrFrom4([4]byte{192, 0, 2, i})},
			Listen:  []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, i})},
			Port:    1790,
		})
		if err != nil {
			log.Fatal(err)
		}
		running.Go(func() {
			if err := s.Run(ctx); err != nil {
				log.Fatal(err)
			}
		})
		return s
	}
	nodes := []bgp.Node{
		{Name: "node1", Addrs: subnet.Addrs{V4: netip.MustParseAddr("127.0.0.1")}},
		{Name: "node2", Addrs: subnet.Addrs{V4: netip.MustParseAddr("127.0.0.2")}},
	}
	one, two := speaker(1), speaker(2)
	for !one.Status().Running || !two.Status().Running {
		time.Sleep(time.Millisecond)
	}
	if err := one.SetPeers(bgp.Mesh("node1", nodes, bgp.Peer{Port: 1790})); err != nil {
		log.Fatal(err)
	}
	if err := two.SetPeers(bgp.Mesh("node2", nodes, bgp.Peer{Port: 1790})); err != nil {
		log.Fatal(err)
	}
	if err := two.Advertise([]bgp.Advertisement{{Prefix: netip.MustParsePrefix("10.244.2.0/24")}}); err != nil {
		log.Fatal(err)
	}

	node := subnet.Node{Name: "node1", Device: "eth0"}
	base := bgp.Base{Self: subnet.Lease{Key: "self", Node: "node1", Backend: hostgw.Type}}
	for learned := range one.Snapshots(ctx) {
		spec, _, err := hostgw.Compile(node, bgp.Compile(base, learned))
		if err != nil {
			log.Fatal(err)
		}
		if len(spec.Peers) > 0 {
			fmt.Println(spec.Peers[0].Prefixes, "via", spec.Peers[0].Underlay) // to a podweft.Loop of hostgw, as a rule
			break
		}
	}
	// Output: [10.244.2.0/24] via 192.0.2.2
}
