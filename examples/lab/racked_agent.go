package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/podweft/podweft/testnet"
)

// speaking is podweft-calico in a machine: an agent, or the router.
type speaking struct {
	log    string
	socket string // of an agent
	ended  chan struct{}
}

// launch starts one; it is asked to end when ctx does.
func (r *racked) launch(ctx context.Context, on *testnet.Node, args []string) (*speaking, error) {
	state := filepath.Join(r.dir, on.Name)
	if err := os.MkdirAll(state, 0o700); err != nil {
		return nil, err
	}
	s := &speaking{log: filepath.Join(state, "log"), socket: filepath.Join(state, "calico-k8s-pod-network.sock"), ended: make(chan struct{})}
	to, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer to.Close()
	cmd := on.Command(ctx, os.Getenv(calicoVar), args...)
	cmd.Stdout, cmd.Stderr = to, to
	// Ctrl-C is for the lab, which then ends what it has started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start podweft-calico in %s: %w", on.Name, err)
	}
	go func() {
		defer close(s.ended)
		_ = cmd.Wait() // its log says more
	}()
	r.open = append(r.open, s)
	return s, nil
}

// Close waits for the process, which has been asked to end.
func (s *speaking) Close() error {
	<-s.ended
	return nil
}

// lastWords is the last line of its log.
func (s *speaking) lastWords() string {
	text, _ := os.ReadFile(s.log)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// agentStatus is what an agent says of itself, as far as the lab shows it.
type agentStatus struct {
	Ready  bool `json:"ready"`
	MTU    int  `json:"mtu"`
	Blocks []struct {
		Prefix netip.Prefix `json:"prefix"`
		Used   int          `json:"used"`
	} `json:"blocks"`
	Routes []struct {
		Prefix  netip.Prefix `json:"prefix"`
		Node    string       `json:"node"`
		NextHop netip.Addr   `json:"nextHop"`
		Way     string       `json:"way"`
	} `json:"routes"`
	BGP *struct {
		Established int `json:"established"`
		Peers       []struct {
			Name  string     `json:"name"`
			Addr  netip.Addr `json:"addr"`
			AS    uint32     `json:"as"`
			State string     `json:"state"`
		} `json:"peers"`
	} `json:"bgp"`
}

// reached counts the nodes that the agent knows the way to, in both families.
func (s agentStatus) reached() (n int) {
	families := map[string]int{}
	for _, r := range s.Routes {
		bit := 1
		if r.Prefix.Addr().Is4() {
			bit = 2
		}
		if families[r.Node] |= bit; families[r.Node] == 3 {
			families[r.Node] |= 4 // counted
			n++
		}
	}
	return n
}

// status asks the agent, over the socket that podweft-calico status asks too.
func (s *speaking) status(ctx context.Context) (all agentStatus, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.socket)
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/status", nil)
	if err != nil {
		return all, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return all, err
	}
	defer answer.Body.Close()
	return all, json.NewDecoder(answer.Body).Decode(&all)
}

// calicoVar names the agent's program. Whoever has none gets one built, in the directory of builtCalicoVar, which goes with the lab.
const (
	calicoVar      = "PODWEFT_LAB_CALICO"
	builtCalicoVar = "PODWEFT_LAB_CALICO_BUILT"
)

// provideCalico makes sure that there is one. It has to come before the lab has a network of its own, from which a module that is still
// missing could not be had.
func provideCalico(ctx context.Context) error {
	if os.Getenv(calicoVar) != "" {
		return nil
	}
	dir, err := os.MkdirTemp("", "podweft-lab-")
	if err != nil {
		return err
	}
	program := filepath.Join(dir, "podweft-calico")
	fmt.Fprintln(os.Stderr, "lab: building podweft-calico, which takes a while the first time")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/podweft/podweft/examples/cmd/podweft-calico")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		_ = os.RemoveAll(dir)
		return fmt.Errorf("build podweft-calico: %w (or say in %s where one is)", err, calicoVar)
	}
	if err := os.Setenv(builtCalicoVar, dir); err != nil {
		return err
	}
	return os.Setenv(calicoVar, program)
}

// tidyCalico removes what provideCalico has built, if it has.
func tidyCalico() error {
	if dir := os.Getenv(builtCalicoVar); dir != "" {
		return os.RemoveAll(dir)
	}
	return nil
}
