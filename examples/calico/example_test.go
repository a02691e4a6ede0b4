package calico_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"

	"github.com/podweft/podweft/examples/calico"
	blocks "github.com/podweft/podweft/ipam/block/memory"
	"github.com/podweft/podweft/node"
	nodes "github.com/podweft/podweft/roster/memory"
	"github.com/podweft/podweft/testnet"
)

// Two nodes in one process, each in a namespace of its own, with routes straight from the store.
func Example() {
	racks, err := testnet.BuildRacks(testnet.RacksConfig{Nodes: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer racks.Close()
	dir, err := os.MkdirTemp("", "calico")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(context.Background())
	cfg := calico.Config{
		Blocks: blocks.New(), Nodes: nodes.New(), Routes: calico.ByStore, Underlay: node.Choice{Name: "eth0"},
		Pools: []calico.Pool{{Name: "pods", Prefix: netip.MustParsePrefix("10.244.0.0/16"), VXLAN: calico.CrossSubnet}},
	}
	ended := make(chan error)
	var first *calico.Agent
	for _, machine := range racks.Nodes() {
		cfg.Node, cfg.NetNS, cfg.StateDir = machine.Name, machine.NetNS(), dir+"/"+machine.Name
		agent, err := calico.New(cfg)
		if err != nil {
			log.Fatal(err)
		}
		go func() { ended <- agent.Run(ctx) }()
		<-agent.Ready()
		if first == nil {
			first = agent
		}
	}
	for { // until the first has heard of the second
		if s := first.Status(ctx); len(s.Routes) > 0 {
			fmt.Println(s.Node, "reaches", s.Routes[0].Node, "by", s.Routes[0].Way)
			break
		}
	}
	cancel()
	fmt.Println(<-ended, <-ended)
	// Output:
	// node1 reaches node2 by vxlan
	// <nil> <nil>
}
