package sabotage

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

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/testnet"
)

// agentVar makes a test binary the agent of the node whose namespace it names.
const agentVar = "PODWEFT_SABOTAGE_AGENT"

// Agent is a process that keeps a node at Specs of type S, to be killed and measured: the test binary itself, once more.
type Agent[S any] struct {
	PID int

	cmd     *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Reader
	killed  bool
}

// order is what an agent is told, one after the other.
type order[S any] struct {
	Spec S
	Rest bool
}

// Tests are those of a package that starts agents, for testnet.Main: where the environment says so, they are an agent instead, with a
// driver that open makes.
func Tests[S any, D interface {
	podweft.Driver[S]
	io.Closer
}](m interface{ Run() int }, open func(netns string) (D, error)) interface{ Run() int } {
	return program(func() int {
		netns := os.Getenv(agentVar)
		if netns == "" {
			return m.Run()
		}
		driver, err := open(netns)
		if err == nil {
			err = errors.Join(obey(driver), driver.Close())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			return 1
		}
		return 0
	})
}

type program func() int

func (p program) Run() int { return p() }

// obey does what it is ordered on its standard input, and writes a line when it has.
func obey[S any](driver podweft.Driver[S]) error {
	loop := podweft.NewLoop(driver, podweft.LoopConfig{Coalesce: -1})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx) }()
	orders := json.NewDecoder(os.Stdin)
	for {
		var o order[S]
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
		if err == nil {
			_, err = fmt.Fprintln(os.Stdout, "done")
		}
		if err != nil {
			cancel()
			return errors.Join(err, <-ended)
		}
	}
}

// StartAgent starts an agent of the node. It is killed at the test's end if not before.
func StartAgent[S any](t testing.TB, n *testnet.Node) *Agent[S] {
	t.Helper()
	a := &Agent[S]{cmd: exec.CommandContext(t.Context(), "/proc/self/exe")}
	a.cmd.Env = append(os.Environ(), agentVar+"="+n.NetNS())
	a.cmd.Stderr = os.Stderr
	var err error
	a.orders, err = a.cmd.StdinPipe()
	must(t, err)
	answers, err := a.cmd.StdoutPipe()
	must(t, err)
	a.answers = bufio.NewReader(answers)
	must(t, a.cmd.Start())
	a.PID = a.cmd.Process.Pid
	t.Cleanup(func() { a.Kill(t) })
	return a
}

// Keep returns when spec is in force.
func (a *Agent[S]) Keep(t testing.TB, spec S) {
	t.Helper()
	a.order(t, order[S]{Spec: spec})
}

// Rest makes the agent give back what memory it does not need, as Go does by itself in some minutes.
func (a *Agent[S]) Rest(t testing.TB) {
	t.Helper()
	a.order(t, order[S]{Rest: true})
}

func (a *Agent[S]) order(t testing.TB, o order[S]) {
	t.Helper()
	must(t, json.NewEncoder(a.orders).Encode(o))
	if _, err := a.answers.ReadString('\n'); err != nil {
		t.Fatalf("the agent has ended: %v", err)
	}
}

// Kill is kill -9; it returns when the process is gone. It may be called again.
func (a *Agent[S]) Kill(t testing.TB) {
	t.Helper()
	if a.killed {
		return
	}
	a.killed = true
	must(t, a.cmd.Process.Kill())
	_ = a.cmd.Wait() // which says that it was killed, or that a trace has heard so first
}
