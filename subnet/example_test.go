package subnet_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/memory"
)

// A node's life with the store: it takes a subnet, keeps it, and hears of its peers.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	network, err := subnet.ParseNetwork([]byte(`{
		"Network": "10.244.0.0/16", "SubnetMin": "10.244.1.0", "SubnetMax": "10.244.2.0",
		"Backend": {"Type": "vxlan"}
	}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	store := memory.New(network)

	hold, err := subnet.NewHold(subnet.HoldConfig{Store: store, Claim: subnet.Claim{
		Node:     "node-1",
		Underlay: subnet.Addrs{V4: netip.MustParseAddr("192.0.2.1")},
		Backend:  "vxlan",
		Prefer:   subnet.Prefixes{V4: netip.MustParsePrefix("10.244.1.0/24")}, // what it had before it restarted
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	lease, err := hold.Acquire(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("ours:", lease)
	kept := make(chan error)
	go func() { kept <- hold.Run(ctx) }()

	// Another node comes.
	_, err = store.Acquire(ctx, subnet.Claim{Node: "node-2", Underlay: subnet.Addrs{V4: netip.MustParseAddr("192.0.2.2")}, Backend: "vxlan"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for snapshot := range subnet.NewFeed(subnet.FeedConfig{Store: store}).Snapshots(ctx) {
		hold.Observe(snapshot)
		peers, problems := snapshot.Peers("node-1") // what a driver compiles its Spec from
		for _, peer := range peers {
			fmt.Println("peer:", peer)
		}
		fmt.Println("problems:", len(problems))
		break // a daemon goes on for ever
	}
	cancel()
	fmt.Println(<-kept)
	// Output:
	// ours: 10.244.1.0/24 of node-1 via 192.0.2.1
	// peer: 10.244.2.0/24 of node-2 via 192.0.2.2
	// problems: 0
	// <nil>
}

// Every problem of a configuration is named at once, with what to write instead.
func ExampleParseNetwork() {
	_, err := subnet.ParseNetwork([]byte(`{"Network": "10.244.0.0/16", "SubnetLen": 31, "Backend": {"VNI": 1}}`))
	fmt.Println(err)

	network, err := subnet.ParseNetwork([]byte(`{"network": "10.244.0.0/16"}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	text, err := json.Marshal(network)
	fmt.Println(string(text), err)
	// Output:
	// SubnetLen: 31 leaves a node no room for pods: use 30 at most
	// Backend.Type: is missing: name a backend, such as "vxlan" or "host-gw"
	// {"Network":"10.244.0.0/16","SubnetLen":24,"SubnetMin":"10.244.1.0","SubnetMax":"10.244.255.0","Backend":{"Type":"vxlan"}} <nil>
}

// What other nodes wrote is input: what makes no sense in it is left out and reported.
func ExampleSnapshot_Peers() {
	underlay := subnet.Addrs{V4: netip.MustParseAddr("192.0.2.2")}
	snapshot := &subnet.Snapshot{
		Network: &subnet.Network{V4: subnet.Range{Network: netip.MustParsePrefix("10.244.0.0/16")}},
		Leases: []*subnet.Lease{
			{Key: "a", Node: "node-2", Prefixes: subnet.Prefixes{V4: netip.MustParsePrefix("10.244.2.0/24")}, Underlay: underlay},
			{Key: "b", Node: "node-3", Prefixes: subnet.Prefixes{V4: netip.MustParsePrefix("10.244.2.0/25")}, Underlay: underlay},
			{Key: "c", Node: "node-4", Prefixes: subnet.Prefixes{V4: netip.MustParsePrefix("192.168.0.0/24")}, Underlay: underlay},
		},
	}
	peers, problems := snapshot.Peers("node-1")
	for _, peer := range peers {
		fmt.Println(peer)
	}
	for _, problem := range problems {
		fmt.Println(problem)
	}
	// Output:
	// 10.244.2.0/24 of node-2 via 192.0.2.2
	// lease b of node-3: Prefixes.V4: 10.244.2.0/25 overlaps 10.244.2.0/24 of node-2
	// lease c of node-4: Prefixes.V4: 192.168.0.0/24 lies outside the network 10.244.0.0/16
}
