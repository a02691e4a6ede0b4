package gate_test

import (
	"context"
	"fmt"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/gate"
)

// The cluster has told of the pod, and its plugin asks for it.
func ExampleGate() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	driver := &kernel{} // nftables.New(nftables.Config{}) in an agent
	loop := podweft.NewLoop(driver, podweft.LoopConfig{})
	go func() { _ = loop.Run(ctx) }()

	g, err := gate.New(gate.Config[*policy.Ruleset]{Node: "node-1", Loop: loop, Spec: func(rules *policy.Ruleset) *policy.Ruleset { return rules }})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := g.Update(pods(pod("web"))); err != nil { // from the cluster
		fmt.Println(err)
	}
	err = g.Attach(ctx, record("web", "10.244.1.2/24")) // from a local.Handler
	fmt.Println(err, driver.addresses("web"))
	// Output: <nil> [10.244.1.2]
}
