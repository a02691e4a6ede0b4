package hostgw_test

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
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/testnet"
)

// agentVar makes the test binary the agent of the node whose namespace it names.
const agentVar = "PODWEFT_HOSTGW_AGENT"

func TestMain(m *testing.M) { testnet.Main(program{m}) }

// program is the tests or, where the environment says so, a node's agent: a process of its own, to be killed.
type program struct{ tests *testing.M }

func (p program) Run() int {
	netns := os.Getenv(agentVar)
	if netns == "" {
		return p.tests.Run()
	}
	if err := runAgent(netns); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		return 1
	}
	return 0
}

// runAgent keeps the node at the Spec that it reads, and writes a line when it is in force.
func runAgent(netns string) error {
	var spec hostgw.Spec
	if err := json.NewDecoder(os.Stdin).Decode(&spec); err != nil {
		return err
	}
	driver, err := hostgw.New(hostgw.Config{NetNS: netns})
	if err != nil {
		return err
	}
	defer driver.Close()
	loop := podweft.NewLoop(driver, podweft.LoopConfig{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx) }()
	err = loop.Wait(ctx, loop.Set(spec))
	if err == nil {
		fmt.Println("in force")
		_, err = io.Copy(io.Discard, os.Stdin) // for ever
	}
	cancel()
	return errors.Join(err, <-ended)
}

// startAgent starts a process that keeps the node at spec, and returns when that is in force. kill is kill -9; it returns when
// the process is gone.
func startAgent(t *testing.T, n *testnet.Node, spec hostgw.Spec) (kill func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), agentVar+"="+n.NetNS())
	cmd.Stderr = os.Stderr
	orders, err := cmd.StdinPipe()
	require.NoError(t, err)
	answers, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	alive := true
	kill = func() {
		if alive {
			alive = false
			require.NoError(t, cmd.Process.Kill())
			_ = cmd.Wait() // which says that it was killed
		}
	}
	t.Cleanup(kill)
	require.NoError(t, json.NewEncoder(orders).Encode(spec))
	_, err = bufio.NewReader(answers).ReadString('\n')
	require.NoError(t, err, "the agent has ended")
	return kill
}
