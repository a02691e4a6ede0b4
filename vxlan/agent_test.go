package vxlan_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// agentVar makes the test binary the agent of the node whose namespace it names.
const agentVar = "PODWEFT_VXLAN_AGENT"

// runAgent does what it is ordered on its standard input, and writes a line when it has.
func runAgent(netns string) int {
	driver, err := vxlan.New(vxlan.Config{NetNS: netns})
	if err == nil {
		defer driver.Close()
		err = obey(driver)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		return 1
	}
	return 0
}

// order is what an agent is told, one after the other.
type order struct {
	Spec vxlan.Spec
	// Rest makes it give back what memory it does not need, as Go does by itself in some minutes.
	Rest bool
}

func obey(driver *vxlan.Driver) error {
	loop := podweft.NewLoop(driver, podweft.LoopConfig{Coalesce: -1})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx) }()
	orders := json.NewDecoder(os.Stdin)
	for {
		var o order
		err := orders.Decode(&o)
		if errors.Is(err, io.EOF) {
			cancel()
			return <-ended
		}
		switch {
		case err != nil:
		case o.Rest:
			orders = json.NewDecoder(os.Stdin) // the old one has a buffer as large as the last Spec
			debug.FreeOSMemory()
		default:
			err = loop.Wait(ctx, loop.Set(o.Spec))
		}
		if err != nil {
			cancel()
			return errors.Join(err, <-ended)
		}
		fmt.Println("done")
	}
}

// agent is a process that keeps a node at a Spec.
type agent struct {
	cmd     *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Reader
	killed  bool
}

func startAgent(t testing.TB, n *testnet.Node) *agent {
	t.Helper()
	a := &agent{cmd: exec.CommandContext(t.Context(), "/proc/self/exe")}
	a.cmd.Env = append(os.Environ(), agentVar+"="+n.NetNS())
	a.cmd.Stderr = os.Stderr
	var err error
	a.orders, err = a.cmd.StdinPipe()
	require.NoError(t, err)
	answers, err := a.cmd.StdoutPipe()
	require.NoError(t, err)
	a.answers = bufio.NewReader(answers)
	require.NoError(t, a.cmd.Start())
	t.Cleanup(func() { a.kill(t) })
	return a
}

// keep returns when spec is in force.
func (a *agent) keep(t testing.TB, spec vxlan.Spec) {
	t.Helper()
	a.order(t, order{Spec: spec})
}

func (a *agent) order(t testing.TB, o order) {
	t.Helper()
	require.NoError(t, json.NewEncoder(a.orders).Encode(o))
	_, err := a.answers.ReadString('\n')
	require.NoError(t, err, "the agent has ended")
}

// kill is kill -9; it returns when the process is gone. It may be called again.
func (a *agent) kill(t testing.TB) {
	t.Helper()
	if a.killed {
		return
	}
	a.killed = true
	require.NoError(t, a.cmd.Process.Kill())
	_ = a.cmd.Wait() // which says that it was killed, or that a trace has heard so first
}
