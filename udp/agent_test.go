package udp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/udp"
)

// agentVar makes the test binary the agent of the node whose namespace it names.
const agentVar = "PODWEFT_UDP_AGENT"

// runAgent keeps the node at the Specs that it reads, one after the other, and writes its counters when each is in force.
func runAgent(netns string) int {
	if what := os.Getenv(lackVar); what != "" {
		if err := lack(what); err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			return 1
		}
	}
	driver, err := udp.New(udp.Config{NetNS: netns})
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

func obey(driver *udp.Driver) error {
	loop := podweft.NewLoop(driver, podweft.LoopConfig{Coalesce: -1})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- loop.Run(ctx) }()
	go func() { ended <- driver.Forward(ctx) }()
	orders, answers := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var spec udp.Spec
		err := orders.Decode(&spec)
		if errors.Is(err, io.EOF) {
			cancel()
			return errors.Join(<-ended, <-ended)
		}
		if err == nil {
			err = loop.Wait(ctx, loop.Set(spec))
		}
		if err == nil {
			err = answers.Encode(driver.Stats())
		}
		if err != nil {
			cancel()
			return errors.Join(err, <-ended, <-ended)
		}
	}
}

// agent is a process that keeps a node at a Spec.
type agent struct {
	cmd     *exec.Cmd
	orders  io.WriteCloser
	answers *json.Decoder
	killed  bool
}

func startAgent(t testing.TB, n *testnet.Node, env ...string) *agent {
	t.Helper()
	a := &agent{cmd: exec.CommandContext(t.Context(), "/proc/self/exe")}
	a.cmd.Env = append(append(os.Environ(), agentVar+"="+n.NetNS()), env...)
	a.cmd.Stderr = os.Stderr
	var err error
	a.orders, err = a.cmd.StdinPipe()
	require.NoError(t, err)
	answers, err := a.cmd.StdoutPipe()
	require.NoError(t, err)
	a.answers = json.NewDecoder(answers)
	require.NoError(t, a.cmd.Start())
	t.Cleanup(func() { a.kill(t) })
	return a
}

// keep returns when spec is in force, with the agent's counters.
func (a *agent) keep(t testing.TB, spec udp.Spec) (s udp.Stats) {
	t.Helper()
	require.NoError(t, json.NewEncoder(a.orders).Encode(spec))
	require.NoError(t, a.answers.Decode(&s), "the agent has ended")
	return s
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
