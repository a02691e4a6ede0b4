package vxlan_test

import (
	"flag"
	"os"
	"testing"

	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(program{m}) }

// program is the tests or, where the environment says so, a node's agent: a process of its own, to be killed and measured.
type program struct{ tests *testing.M }

func (p program) Run() int {
	if netns := os.Getenv(agentVar); netns != "" {
		return runAgent(netns)
	}
	flag.Parse()
	// The tests wait nearly all the time: 1,000 pings at 5 ms take 5 s, however many processors there are.
	parallel := "8"
	if testing.Short() { // an emulated processor has enough to do
		parallel = "4"
	}
	if err := flag.Set("test.parallel", parallel); err != nil {
		return 2
	}
	return p.tests.Run()
}
