package bgp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/testnet"
)

// agentVar makes the test binary a node's agent.
const agentVar = "PODWEFT_BGP_AGENT"

// order is a line that an agent reads: what is wanted from now on. It answers each with an answer.
type order struct {
	Peers     []bgp.Peer
	Advertise []bgp.Advertisement
	PeersOnly bool // nothing has been said about what to advertise
}

type answer struct {
	Paths       []bgp.Path
	Established int
	BFD         string // of the first peer
	Reasons     string

	RSS int // of the process, in KiB
	Err string
}

// runAgent is what a node's agent does: it speaks BGP, and keeps the kernel at what it has learned.
func runAgent() error {
	in := json.NewDecoder(os.Stdin)
	var cfg bgp.Config
	if err := in.Decode(&cfg); err != nil {
		return err
	}
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	speaker, err := bgp.New(cfg)
	if err != nil {
		return err
	}
	driver, err := hostgw.New(hostgw.Config{})
	if err != nil {
		return err
	}
	defer driver.Close()
	loop := podweft.NewLoop(driver, podweft.LoopConfig{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- speaker.Run(ctx) }()
	go func() { ended <- loop.Run(ctx) }()
	go keepKernel(ctx, cfg, speaker, loop)
	err = serve(in, speaker, loop)
	cancel()
	return errors.Join(err, <-ended, <-ended)
}

// keepKernel keeps the loop's Spec at what was learned.
func keepKernel(ctx context.Context, cfg bgp.Config, speaker *bgp.Speaker, loop *podweft.Loop[hostgw.Spec]) {
	node := subnet.Node{Name: "self", Device: "eth0", Underlay: cfg.NextHop}
	base := bgp.Base{Self: subnet.Lease{Key: "self", Node: "self", Underlay: cfg.NextHop, Backend: hostgw.Type}}
	for learned := range speaker.Snapshots(ctx) {
		spec, _, err := hostgw.Compile(node, bgp.Compile(base, learned))
		if err != nil {
			fmt.Fprintln(os.Stderr, "compile:", err)
			continue
		}
		loop.Set(spec)
	}
}

func serve(in *json.Decoder, speaker *bgp.Speaker, loop *podweft.Loop[hostgw.Spec]) error {
	out := json.NewEncoder(os.Stdout)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	last := make(chan *bgp.Snapshot, 1)
	go func() {
		for s := range speaker.Snapshots(ctx) {
			select {
			case <-last:
			default:
			}
			last <- s
		}
	}()
	now := &bgp.Snapshot{}
	for {
		var o *order
		if err := in.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		var a answer
		if o != nil {
			err := speaker.SetPeers(o.Peers)
			if !o.PeersOnly {
				err = errors.Join(err, speaker.Advertise(o.Advertise))
			}
			if err != nil {
				a.Err = err.Error()
			}
		}
		select {
		case now = <-last:
		default:
		}
		a.Paths = now.Paths
		status := speaker.Status()
		a.Established = status.Established()
		for _, p := range status.Peers {
			a.BFD = status.Peers[0].BFD
			a.Reasons += fmt.Sprintf("%s %s %s; ", p.Addr, p.State, p.Reason)
		}
		if status.Err != nil {
			a.Err += status.Err.Error()
		}
		if err := loop.Status().Last.Err; err != nil {
			a.Err += err.Error()
		}
		a.RSS = rss()
		if err := out.Encode(a); err != nil {
			return err
		}
	}
}

func rss() int {
	raw, _ := os.ReadFile("/proc/self/status")
	_, after, _ := strings.Cut(string(raw), "VmRSS:")
	n, _ := strconv.Atoi(strings.Fields(after + " 0")[0])
	return n
}

// agent is a node's agent as the test sees it.
type agent struct {
	node    *testnet.Node
	cmd     *exec.Cmd
	orders  io.WriteCloser
	encoder *json.Encoder
	answers *bufio.Reader
	alive   bool
	last    string // answer
}

// startAgent starts an agent in the node. It is killed at the end of the test if it lives still.
func startAgent(t testing.TB, n *testnet.Node, cfg bgp.Config) *agent {
	t.Helper()
	cmd := n.Command(context.Background(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), agentVar+"=1", "GORACE=exitcode=0") // for the engine's own race; see row
	said := &bytes.Buffer{}
	cmd.Stderr = said
	orders, err := cmd.StdinPipe()
	require.NoError(t, err)
	answers, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	a := &agent{node: n, cmd: cmd, orders: orders, encoder: json.NewEncoder(orders), answers: bufio.NewReader(answers), alive: true}
	t.Cleanup(func() {
		a.kill(t)
		if bytes.Contains(said.Bytes(), []byte("WARNING: DATA RACE")) {
			os.Stderr.Write(said.Bytes()) // as it is, for CI to find
		}
		if t.Failed() {
			t.Logf("the agent of %s, last: %sits log:\n%s", n.Name, a.last, said)
		}
	})
	require.NoError(t, a.encoder.Encode(cfg))
	return a
}

func (a *agent) ask(t testing.TB, o *order) answer {
	t.Helper()
	require.NoError(t, a.encoder.Encode(o))
	line, err := a.answers.ReadBytes('\n')
	require.NoError(t, err, "the agent of %s has ended", a.node.Name)
	a.last = string(line)
	var out answer
	require.NoError(t, json.Unmarshal(line, &out))
	return out
}

func (a *agent) order(t testing.TB, o order) {
	t.Helper()
	require.Empty(t, a.ask(t, &o).Err)
}

// wait asks until the answer will do.
func (a *agent) wait(t testing.TB, what string, enough func(answer) bool) answer {
	t.Helper()
	until := time.Now().Add(patience)
	for {
		last := a.ask(t, nil)
		if enough(last) {
			return last
		}
		if time.Now().After(until) {
			require.Fail(t, "waited in vain for "+what, "%s: %+v", a.node.Name, last)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// kill is kill -9; it returns when the process is gone.
func (a *agent) kill(t testing.TB) {
	t.Helper()
	if a.alive {
		a.alive = false
		require.NoError(t, a.cmd.Process.Kill())
		_ = a.cmd.Wait() // which says that it was killed
	}
}

// end lets the agent end in order.
func (a *agent) end(t testing.TB) {
	t.Helper()
	a.alive = false
	require.NoError(t, a.orders.Close())
	require.NoError(t, a.cmd.Wait())
}

func knows(prefixes ...netip.Prefix) func(answer) bool {
	return func(a answer) bool { return has(prefixes...)(&bgp.Snapshot{Paths: a.Paths}) }
}

func knowsNot(p netip.Prefix) func(answer) bool {
	return func(a answer) bool { return !knows(p)(a) }
}

// hasNoted waits until the prefixes are in the agent's state file, for the agent that comes next.
func hasNoted(t testing.TB, cfg bgp.Config, prefixes ...netip.Prefix) {
	t.Helper()
	var noted []byte
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		noted, _ = os.ReadFile(cfg.StateFile) // which is not there at first
		missing := slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return !bytes.Contains(noted, []byte(strconv.Quote(p.String()))) })
		if !missing {
			return
		}
	}
	require.Fail(t, "waited in vain for the state file", "%s", noted)
}
