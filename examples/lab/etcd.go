package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/udp"
)

// With --store etcd the cluster's leases are in an etcd, and each node's agent is the example daemon. Both are processes of
// examples/cmd/podweft-flannel, which the lab starts and is not linked with: who only wants the tour need not build etcd.

// The stores of --store.
const (
	storeMemory = "memory"
	storeEtcd   = "etcd"
)

// programVar names the daemon's program. Whoever has none gets one built, in a directory that goes with the lab.
const programVar = "PODWEFT_LAB_PROGRAM"

// builtVar is that directory.
const builtVar = "PODWEFT_LAB_BUILT"

// provide makes sure that there is a daemon's program. It has to come before the lab has a network of its own, from which a module
// that is still missing could not be had. What is wrong with the command line is not its concern.
func provide(args []string) error {
	o, err := parse(args)
	if err != nil || o.store != storeEtcd || os.Getenv(programVar) != "" {
		return nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	dir, err := os.MkdirTemp("", "podweft-lab-")
	if err != nil {
		return err
	}
	program := filepath.Join(dir, "podweft-flannel")
	fmt.Fprintln(os.Stderr, "lab: building podweft-flannel, which takes a while the first time")
	build := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", program, "github.com/podweft/podweft/examples/cmd/podweft-flannel")
	build.Stderr = os.Stderr
	err = build.Run()
	if err == nil {
		err = errors.Join(os.Setenv(programVar, program), os.Setenv(builtVar, dir))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("build podweft-flannel: %w (or say in %s where one is)", err, programVar), os.RemoveAll(dir))
	}
	return nil
}

// tidy removes what provide has built, if it has.
func tidy() error {
	if dir := os.Getenv(builtVar); dir != "" {
		return os.RemoveAll(dir)
	}
	return nil
}

// enter is testnet.Enter, with a daemon's program where one is asked for.
func enter(args []string) error {
	if os.Getenv(socketVar) == "" {
		if err := provide(args); err != nil {
			return err
		}
	}
	err := testnet.Enter()
	return errors.Join(err, tidyIf(err != nil))
}

func tidyIf(refused bool) error {
	if !refused {
		return nil
	}
	return tidy()
}

// validStore says what does not go together with a store.
func (o options) validStore() error {
	switch {
	case o.store != storeMemory && o.store != storeEtcd:
		return &podweft.FieldError{Field: "--store", Value: o.store, Problem: "is not a store of the lab", Remedy: "use memory or etcd"}
	case o.store == storeEtcd && o.network.Backend.Type == udp.Type:
		return &podweft.FieldError{
			Field: "--store", Value: o.store, Problem: "does not go with udp: the lab could not look into the agents to follow a packet",
			Remedy: "use vxlan or host-gw",
		}
	}
	return nil
}

// etcd is the cluster's, where it has one: a process, at a URL on the lab's own loopback.
type etcd struct {
	program, url string
	daemons      map[*member]*daemon
	ended        chan struct{}
}

// startEtcd starts etcd and configures the network there.
func (c *cluster) startEtcd(ctx context.Context) error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	e := &etcd{program: os.Getenv(programVar), url: "http://" + address, daemons: map[*member]*daemon{}, ended: make(chan struct{})}
	log := filepath.Join(c.dir, "etcd.log")
	cmd, err := launch(ctx, log, e.program, "--etcd-listen", e.url, "--etcd-data", filepath.Join(c.dir, "etcd"), "etcd")
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	go func() {
		_ = cmd.Wait() // what it had to say is in the log
		close(e.ended)
	}()
	c.etcd = e
	c.open = append(c.open, e)
	conf, err := json.Marshal(c.network)
	if err != nil {
		return err
	}
	ended := func() bool {
		select {
		case <-e.ended:
			return true
		default:
			return false
		}
	}
	if err := await(ctx, func() bool { return e.put(ctx, "config", conf) == nil || ended() }); err != nil {
		return fmt.Errorf("etcd does not serve: %w: %s", err, lastLine(log))
	} else if ended() {
		return fmt.Errorf("etcd has ended: %s", lastLine(log))
	}
	return nil
}

// Close waits for etcd, which has been asked to end.
func (e *etcd) Close() error {
	<-e.ended
	return nil
}

// put writes a key over etcd's HTTP gateway, as any language can.
func (e *etcd) put(ctx context.Context, key string, value []byte) error {
	body, err := json.Marshal(map[string][]byte{"key": []byte("/coreos.com/network/" + key), "value": value})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url+"/v3/kv/put", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	if r.StatusCode != http.StatusOK {
		return errors.New(r.Status)
	}
	return nil
}

// startDaemon runs a node's agent as a process.
func (c *cluster) startDaemon(ctx context.Context, m *member) error {
	d, err := newDaemon(c.etcd.program, c.dir, m.machine.Name, m.machine.NetNS(), c.etcd.url)
	if err != nil {
		return err
	}
	if err := d.rehearse(ctx); err != nil {
		return err
	}
	if err := d.start(ctx); err != nil {
		return err
	}
	c.open = append(c.open, d)
	c.etcd.daemons[m] = d
	m.agent, m.backend = d, &backend{rehearsal: d}
	return nil
}

// agents lists the nodes' processes, for the shell.
func (s *server) agents(out printer) error {
	if s.c.etcd == nil {
		return misused("the agents are part of the lab's own process: start it with --store etcd")
	}
	var t table
	t.head("node", "process", "state")
	for _, m := range s.c.members {
		d := s.c.etcd.daemons[m]
		pid, state := "", "does not run: lab start "+m.machine.Name
		if p := d.process(); p != 0 {
			status := d.Status()
			pid, state = fmt.Sprint(p), "not ready"
			if status.Ready {
				state = fmt.Sprintf("ready, %d peers", status.Peers)
			}
		}
		t.row(cell{m.machine.Name, plain}, cell{pid, bold}, cell{state, plain})
	}
	t.print(out, "")
	return nil
}

// start starts an agent again that was killed, and waits until it is ready.
func (s *server) start(ctx context.Context, out printer, args []string) error {
	if s.c.etcd == nil || len(args) != 1 {
		return misused("write lab start NODE, in a lab with --store etcd")
	}
	i := slices.IndexFunc(s.c.members, func(m *member) bool { return m.machine.Name == args[0] })
	if i < 0 {
		return unknown(args[0])
	}
	d := s.c.etcd.daemons[s.c.members[i]]
	if err := d.start(s.life); err != nil {
		return err
	}
	if _, err := d.Pods(ctx); err != nil {
		return errors.Join(err, d.failed())
	}
	out.printf("%s ready: process %d\n", out.paint(green, "✓"), d.process())
	return nil
}

// keeps is where the leases are kept, in words.
func (o options) keeps() string {
	if o.store == storeMemory {
		return "Here the store is memory; subnet.Store is what any other has to be."
	}
	return "Here the store is etcd, and each agent a process of its own, podweft-flannel."
}

// dryRun is who made the dry run that the tour shows. That of a daemon knows no lease yet.
func (o options) dryRun() string {
	if o.store == storeMemory {
		return "Driver.Plan"
	}
	return "`podweft-flannel plan`, which claims nothing: its subnet is one of those that were free,"
}
