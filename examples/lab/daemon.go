package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/node"
	"github.com/podweft/podweft/subnet"
)

// agent is what makes a machine a node of the cluster: in the lab's own process, or with --store etcd a daemon.
type agent interface {
	Status() node.Status
	Pods(ctx context.Context) (node.Pods, error)
}

// daemon is podweft-flannel, for one node: a process of its own, that a person can kill.
type daemon struct {
	program string
	flags   []string
	files   string // the beginning of its files' names
	health  string // URL
	before  podweft.Plan

	mu      sync.Mutex
	pid     int // 0 while it does not run
	ended   chan struct{}
	lastErr error
}

// newDaemon makes the daemon of a node; start starts it.
func newDaemon(program, dir, name, netns, endpoint string) (*daemon, error) {
	health, err := freeAddress()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(health)
	if err != nil {
		return nil, err
	}
	d := &daemon{program: program, files: filepath.Join(dir, name), health: "http://" + health}
	d.flags = []string{
		"--node-name", name, "--netns", netns, "--iface", "eth0", "--ip-masq", "--etcd-endpoints", endpoint,
		"--subnet-file", d.files + ".env", "--state-file", d.files + ".lease", "--cni-state-dir", "", "--healthz-ip", "127.0.0.1", "--healthz-port", port,
	}
	return d, nil
}

// freeAddress is a place on the loopback at which nobody listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// start runs the daemon until ctx ends or somebody kills it. It does not wait for it to be ready.
func (d *daemon) start(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pid != 0 {
		return fmt.Errorf("the agent runs already: process %d", d.pid)
	}
	cmd, err := launch(ctx, d.files+".log", d.program, d.flags...)
	if err != nil {
		return err
	}
	d.pid, d.ended = cmd.Process.Pid, make(chan struct{})
	go func() {
		err := cmd.Wait()
		d.mu.Lock()
		defer d.mu.Unlock()
		d.pid, d.lastErr = 0, err
		close(d.ended)
	}()
	return nil
}

// launch starts a program that writes to a log, and which is asked to end when ctx does.
func launch(ctx context.Context, log, program string, args ...string) (*exec.Cmd, error) {
	to, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer to.Close()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = to, to
	// Ctrl-C is for the lab, which then ends what it has started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd, cmd.Start()
}

// Close waits for the process, which has been asked to end.
func (d *daemon) Close() error {
	d.mu.Lock()
	ended := d.ended
	d.mu.Unlock()
	if ended != nil {
		<-ended
	}
	return nil
}

// process is the daemon's number, or 0.
func (d *daemon) process() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pid
}

// failed is why the daemon does not run, if it does not: its last words.
func (d *daemon) failed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pid != 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", d.lastErr, lastLine(d.files+".log"))
}

func lastLine(path string) string {
	text, _ := os.ReadFile(path)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// Status implements [agent], as far as the daemon tells.
func (d *daemon) Status() node.Status {
	var s node.Status
	counts, err := d.metrics()
	if err != nil {
		s.Backend.Last.Err = errors.Join(d.failed(), err)
	}
	s.Ready, s.Peers, s.MTU = counts["ready"] == 1, int(counts["peers"]), int(counts["pod_mtu_bytes"])
	s.Backend.Generation = 1
	if counts["in_force"] == 1 {
		s.Backend.Last.Generation = 1
	}
	var lease subnet.Lease
	if text, err := os.ReadFile(d.files + ".lease"); err == nil && json.Unmarshal(text, &lease) == nil {
		s.Lease = &lease
	}
	return s
}

// metrics are the daemon's, without the beginning of their names.
func (d *daemon) metrics() (map[string]float64, error) {
	client := http.Client{Timeout: answerWithin, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get(d.health + "/metrics")
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	all := map[string]float64{}
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if name, ours := strings.CutPrefix(name, "podweft_"); ours {
			all[name], _ = strconv.ParseFloat(value, 64)
		}
	}
	return all, nil
}

// Pods implements [agent]: what the daemon tells a CNI plugin.
func (d *daemon) Pods(ctx context.Context) (node.Pods, error) {
	var s node.Status
	err := await(ctx, func() bool {
		s = d.Status()
		return s.Ready && s.Lease != nil
	})
	if err != nil {
		return node.Pods{}, err
	}
	return node.Pods{Prefixes: s.Lease.Prefixes, MTU: s.MTU}, nil
}

// rehearse keeps what a start would change.
func (d *daemon) rehearse(ctx context.Context) (err error) {
	d.before, err = d.again(ctx)
	return err
}

// first implements [rehearsal].
func (d *daemon) first() podweft.Plan { return d.before }

// again implements [rehearsal]: `podweft-flannel plan`, whose lines are the lease and then those of a Plan.
func (d *daemon) again(ctx context.Context) (plan podweft.Plan, err error) {
	out, err := exec.CommandContext(ctx, d.program, append(d.flags, "plan")...).Output()
	if err != nil {
		return nil, fmt.Errorf("%s plan: %w", filepath.Base(d.program), err)
	}
	signs := map[string]podweft.Op{"+": podweft.Create, "~": podweft.Update, "-": podweft.Delete}
	for line := range strings.Lines(string(out)) {
		sign, object, _ := strings.Cut(strings.TrimSpace(line), " ")
		if op, ok := signs[sign]; ok {
			plan = append(plan, podweft.Change{Op: op, Object: podweft.Named(object)})
		}
	}
	return plan, nil
}
