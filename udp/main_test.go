package udp_test

import (
	"os"
	"testing"
	"time"

	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(program{m}) }

// program is the tests or, where the environment says so, a node's agent: a process of its own, to be killed and measured.
type program struct{ tests *testing.M }

func (p program) Run() int {
	if netns := os.Getenv(agentVar); netns != "" {
		return runAgent(netns)
	}
	if role := os.Getenv(roleVar); role != "" {
		return runRole(role)
	}
	return p.tests.Run()
}

// patience is how long tests wait for what takes milliseconds: the machine may be busy with other tests.
const patience = 20 * time.Second
