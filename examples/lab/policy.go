package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/nftables"
)

// policing is policies at work in a cluster: every node has a table of its own pods'. With --network calico the nodes' agents keep it,
// and else policing does.
type policing struct {
	c       *cluster
	port    uint16 // that is tried
	servers sync.WaitGroup

	mu     sync.Mutex // the shell's `lab label` and `lab policy` may come together
	cast   *cast
	guards map[*member]*podweft.Loop[nftables.Spec]
}

// newPolicing lets each pod of the cast listen on a port. No policy is in force yet.
func newPolicing(ctx context.Context, c *cluster, k *cast) (*policing, error) {
	p := &policing{c: c, cast: k, port: portOf(k.model), guards: map[*member]*podweft.Loop[nftables.Spec]{}}
	if err := p.open(); err != nil {
		return nil, err
	}
	if c.racked != nil {
		return p, nil
	}
	for _, m := range c.members {
		if err := p.guard(ctx, m); err != nil {
			return nil, fmt.Errorf("policies of %s: %w", m.machine.Name, err)
		}
	}
	return p, nil
}

// open lets each pod listen on the port.
func (p *policing) open() error {
	p.c.open = append(p.c.open, p)
	for pod := range p.c.pods() {
		for _, a := range pod.addresses {
			if err := p.listen(pod, netip.AddrPortFrom(a, p.port)); err != nil {
				return fmt.Errorf("listen in %s: %w", pod.name, err)
			}
		}
	}
	return nil
}

// Close waits for what it has started. The listeners, which the cluster closes before, end it.
func (p *policing) Close() error {
	p.servers.Wait()
	return nil
}

// guard starts what keeps a node's table. This is all it takes to enforce policies on a machine.
func (p *policing) guard(ctx context.Context, m *member) error {
	driver, err := nftables.New(nftables.Config{NetNS: m.machine.NetNS()})
	if err != nil {
		return err
	}
	p.c.open = append(p.c.open, driver)
	loop := podweft.NewLoop(driver, podweft.LoopConfig{})
	p.guards[m] = loop
	p.c.running.Go(func() error { return loop.Run(ctx) })
	return nil
}

// enforce makes the tables what the model says, and returns when they are. Agents, which are processes of their own, have only been
// told when it returns; see calls.
func (p *policing) enforce(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.c.racked != nil {
		return p.c.racked.enforce()
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, m := range p.c.members {
		rules, err := policy.NewCompiler(m.machine.Name).Update(p.cast.model)
		if err != nil {
			return err
		}
		loop := p.guards[m]
		if err := loop.Wait(ctx, loop.Set(nftables.Spec{Rules: rules, Bridges: []string{p.c.tenant.bridge()}})); err != nil {
			return fmt.Errorf("policies of %s: %w", m.machine.Name, err)
		}
	}
	return nil
}

// rules is what the policies say of all pods.
func (p *policing) rules() (*policy.Ruleset, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return policy.Compile(p.cast.model)
}

// label puts labels on pods and namespaces.
func (p *policing) label(ctx context.Context, labels ...label) error {
	p.mu.Lock()
	for _, l := range labels {
		if err := p.cast.put(l); err != nil {
			p.mu.Unlock()
			return err
		}
	}
	p.mu.Unlock()
	return p.enforce(ctx)
}

// table is the cast as it is now.
func (p *policing) table() table {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cast.table()
}

// listen accepts connections in a pod until the cluster ends.
func (p *policing) listen(in *pod, at netip.AddrPort) error {
	var l net.Listener
	err := in.machine.Do(func() (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		return err
	}
	p.c.open = append(p.c.open, l)
	p.servers.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	})
	return nil
}
