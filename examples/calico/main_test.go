package calico_test

import (
	"os"
	"testing"

	"github.com/podweft/podweft/examples/calico"
	"github.com/podweft/podweft/testnet"
)

// commandVar makes the test binary podweft-calico.
const commandVar = "PODWEFT_CALICO_COMMAND"

func TestMain(m *testing.M) { testnet.Main(program{m}) }

// program is the tests or, where the environment says so, the command: a process of its own, in a node's namespace, to be killed.
type program struct{ tests *testing.M }

func (p program) Run() int {
	if os.Getenv(commandVar) == "" {
		return p.tests.Run()
	}
	return calico.Main(os.Args[1:], os.Stdout, os.Stderr)
}
