package vxlan_test

import (
	"flag"
	"testing"

	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

func TestMain(m *testing.M) {
	testnet.Main(sabotage.Tests(program{m}, func(netns string) (*vxlan.Driver, error) { return vxlan.New(vxlan.Config{NetNS: netns}) }))
}

type program struct{ tests *testing.M }

func (p program) Run() int {
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
