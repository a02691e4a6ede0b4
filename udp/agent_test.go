package udp_test

import (
	"bufio"
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

// runAgent keeps the node at the Specs that it reads, one after the other, and writes a line when each is in force.
func runAgent(netns string) int {
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
	orders := json.NewDecoder(os.Stdin)
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
		if err != nil {
			cancel()
			return errors.Join(err, <-ended, <-ended)
		}
		fmt.Println("in force")
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
func (a *agent) keep(t testing.TB, spec udp.Spec) {
	t.Helper()
	require.NoError(t, json.NewEncoder(a.orders).Encode(spec))
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
