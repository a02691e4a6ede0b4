package calico_test

import (
	"fmt"
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
	switch {
	case os.Getenv(etcdVar) != "":
		fmt.Fprintln(os.Stderr, "etcd:", runEtcd(os.Getenv(etcdVar)))
		return 1
	case os.Getenv(commandVar) != "":
		return calico.Main(os.Args[1:], os.Stdout, os.Stderr)
	}
	return p.tests.Run()
}
