package hostgw_test

import (
	"testing"

	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) {
	testnet.Main(sabotage.Tests(m, func(netns string) (*hostgw.Driver, error) { return hostgw.New(hostgw.Config{NetNS: netns}) }))
}

func TestRestart(t *testing.T) {
	c := newCluster(t, testnet.FabricConfig{})
	c.apply1(t)
	var flows []sabotage.Flow
	for k, to := range c.pods(0) {
		flows = append(flows, sabotage.Flow{From: c.fabric.Nodes[1], To: to, Echo: testnet.Echo{From: c.pods(1)[k]}})
	}
	sabotage.RequireRestartUnnoticed(t, c.fabric.Nodes[0], c.specs[0], flows)
	c.requireRepaired(t, 0)
}
