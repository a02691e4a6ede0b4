package vxlan_test

import (
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
	return p.tests.Run()
}
