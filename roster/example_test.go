package roster_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/podweft/podweft/roster"
	"github.com/podweft/podweft/roster/memory"
	"github.com/podweft/podweft/subnet"
)

// A node makes itself known and hears of the others.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	store := memory.New() // on a real cluster: one that all nodes reach
	ended := make(chan error)
	for i, name := range []string{"node-1", "node-2"} {
		member, err := roster.NewMember(roster.MemberConfig{Store: store, Node: roster.Node{
			Name: name, AS: 64512, Underlay: subnet.Addrs{V4: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})},
		}})
		if err != nil {
			log.Fatal(err)
		}
		go func() { ended <- member.Run(ctx) }()
	}
	for nodes, err := range roster.Follow(ctx, store) {
		if err != nil {
			log.Println(err) // it is asked again
			continue
		}
		if len(nodes) < 2 {
			continue
		}
		for _, n := range nodes {
			fmt.Println(n.Name, n.Underlay, n.AS, n.Alive)
		}
		fmt.Println(nodes[1].Lease(netip.MustParsePrefix("10.244.0.64/26")))
		break
	}
	cancel()
	fmt.Println(<-ended, <-ended)
	// Output:
	// node-1 192.0.2.1 64512 true
	// node-2 192.0.2.2 64512 true
	// 10.244.0.64/26 of node-2 via 192.0.2.2
	// <nil> <nil>
}
