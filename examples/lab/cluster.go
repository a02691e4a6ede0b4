package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/ipam"
	"github.com/podweft/podweft/node"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/memory"
	"github.com/podweft/podweft/testnet"
)

// cluster is a pod network of many nodes on one machine. It is built in three steps: buildUnderlay, join, attachPods.
type cluster struct {
	network *subnet.Network
	store   subnet.Store // who has which pod subnet; all nodes share it
	etcd    *etcd        // the store instead, with --store etcd; else nil
	fabric  *testnet.Fabric
	members []*member
	tenant  *tenant    // whose network it is, on machines that others share; nil if it is the lab's own
	tenants []*cluster // on the same machines
	// policing is who may call whom; nil if nobody asked for policies.
	policing *policing
	racked   *racked // with --network calico
	dir      string  // for files: the addresses each node has given out

	running *errgroup.Group // the nodes' agents
	stop    context.CancelFunc
	open    []io.Closer // in the order of their opening
}

// member is a node of the cluster.
type member struct {
	machine *testnet.Node // its network namespace
	backend *backend
	agent   agent
	pods    []*pod
}

// pod is a network namespace with an interface on its node's bridge.
type pod struct {
	name      string
	on        *member
	machine   *testnet.Node
	addresses []netip.Addr // IPv4 first
}

// newCluster prepares a cluster; nothing is built yet. Everything that is done with the cluster is to be done under the
// context that it returns, which ends when one of the nodes' agents fails.
func newCluster(ctx context.Context, network *subnet.Network) (*cluster, context.Context, error) {
	dir, err := os.MkdirTemp("", "podweft-lab-")
	if err != nil {
		return nil, nil, err
	}
	c := &cluster{network: network, store: memory.New(network), dir: dir}
	ctx, c.stop = context.WithCancel(ctx)
	c.running, ctx = errgroup.WithContext(ctx)
	return c, ctx, nil
}

// close ends the agents and lets go of everything. The kernel removes what is in a namespace together with it.
func (c *cluster) close() error {
	c.stop()
	errs := []error{c.running.Wait()}
	for _, own := range slices.Backward(c.tenants) {
		errs = append(errs, own.close())
	}
	for _, o := range slices.Backward(c.open) {
		errs = append(errs, o.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}

// buildUnderlay builds the machines, a switch between them, and one machine outside.
func (c *cluster) buildUnderlay(nodes int) error {
	cfg := testnet.FabricConfig{Nodes: nodes, Outside: true}
	if !c.network.V4.IsZero() {
		cfg.V4 = netip.MustParsePrefix(testnet.DefaultV4)
	}
	if !c.network.V6.IsZero() {
		cfg.V6 = netip.MustParsePrefix(testnet.DefaultV6)
	}
	fabric, err := testnet.Build(cfg)
	if err != nil {
		return fmt.Errorf("build the underlay: %w", err)
	}
	c.fabric = fabric
	c.open = append(c.open, fabric)
	for _, machine := range fabric.Nodes {
		c.members = append(c.members, &member{machine: machine})
	}
	return nil
}

// join starts the agents of some nodes; they run until ctx ends. Each claims a pod subnet for its node, tells the others how
// to reach it, and follows what they say. join returns when these nodes and those that joined before know each other, and
// their kernels too.
func (c *cluster) join(ctx context.Context, joining ...*member) error {
	for _, m := range joining {
		if err := c.start(ctx, m); err != nil {
			return fmt.Errorf("start %s: %w", m.machine.Name, err)
		}
	}
	var joined []*member
	for _, m := range c.members {
		if m.agent != nil {
			joined = append(joined, m)
		}
	}
	for _, m := range joined {
		if err := await(ctx, func() bool { return m.settled(len(joined) - 1) }); err != nil {
			reason := cmp.Or(m.agent.Status().Backend.Last.Err, err)
			return fmt.Errorf("wait for %s to settle: %w", m.machine.Name, reason)
		}
	}
	return nil
}

// start runs a node's agent. This is all it takes to make a machine part of a pod network.
func (c *cluster) start(ctx context.Context, m *member) (err error) {
	if c.etcd != nil {
		return c.startDaemon(ctx, m)
	}
	netns := m.machine.NetNS()
	if m.backend, err = newBackend(c.network.Backend.Type, netns, c.tenant); err != nil {
		return err
	}
	c.open = append(c.open, m.backend.driver)
	n, err := node.New(node.Config{
		Name: m.machine.Name, Underlay: node.Choice{Name: "eth0"}, NetNS: netns,
		Store: c.store, Backend: m.backend, Masquerade: c.tenant == nil,
	})
	if err != nil {
		return err
	}
	m.agent = n
	c.running.Go(func() error {
		if err := n.Run(ctx); err != nil {
			return fmt.Errorf("%s: %w", m.machine.Name, err)
		}
		return nil
	})
	return nil
}

// settled reports whether the node knows that many others and its kernel agrees with all it knows.
func (m *member) settled(others int) bool {
	s := m.agent.Status()
	last := s.Backend.Last
	return s.Ready && s.Lease != nil && s.Peers == others && last.Generation == s.Backend.Generation && last.Err == nil
}

// patience bounds the wait for something that takes milliseconds.
const patience = 30 * time.Second

// await returns when done does.
func await(ctx context.Context, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for !done() {
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx) // which may be why an agent failed
		}
	}
	return nil
}

// attachPods gives every node its pods.
func (c *cluster) attachPods(ctx context.Context, perNode int) error {
	group, ctx := errgroup.WithContext(ctx)
	for i, m := range c.members {
		path := filepath.Join(c.dir, m.machine.Name+".ipam")
		group.Go(func() error {
			return m.attachPods(ctx, path, c.tenant, podNames(cmp.Or(c.tenant.owner(), "pod"), i+1, perNode))
		})
	}
	err := group.Wait()
	for p := range c.pods() {
		c.open = append(c.open, p.machine)
	}
	return err
}

// attachPods makes the pods of one node. Package ipam says which addresses they have, package bridge connects them.
func (m *member) attachPods(ctx context.Context, ipamFile string, of *tenant, names []string) error {
	here, err := m.agent.Pods(ctx)
	if err != nil {
		return err
	}
	pool, err := ipam.Open(ipam.Config{Path: ipamFile, Prefixes: slices.Collect(here.Prefixes.All())})
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", m.machine.Name, err)
	}
	defer pool.Close()
	attacher, err := bridge.New(bridge.Config{NetNS: m.machine.NetNS(), Owner: of.owner()})
	if err != nil {
		return fmt.Errorf("bridge of %s: %w", m.machine.Name, err)
	}
	defer attacher.Close()

	for _, name := range names {
		p := &pod{name: name, on: m}
		if p.machine, err = testnet.BuildNode(name); err != nil {
			return err
		}
		m.pods = append(m.pods, p)
		if err := p.attach(ctx, pool, attacher, bridge.Bridge{Name: of.bridge(), MTU: here.MTU}); err != nil {
			return fmt.Errorf("attach %s to %s: %w", name, m.machine.Name, err)
		}
	}
	return nil
}

// attach gives the pod its addresses and an eth0 on the node's bridge, where the subnet's first address is the gateway.
func (p *pod) attach(ctx context.Context, pool *ipam.Pool, attacher *bridge.Attacher, cni0 bridge.Bridge) error {
	held, err := pool.Allocate(ctx, ipam.Owner{Network: "lab", Container: p.name, Interface: "eth0"})
	if err != nil {
		return err
	}
	port := bridge.Port{Container: p.name, NetNS: p.machine.NetNS(), Name: "eth0"}
	for _, a := range held.Addresses {
		cni0.Gateways = append(cni0.Gateways, netip.PrefixFrom(a.Gateway, a.Prefix.Bits()))
		port.Addresses = append(port.Addresses, a.Prefix)
		p.addresses = append(p.addresses, a.Prefix.Addr())
	}
	_, err = attacher.Attach(ctx, cni0, port)
	return err
}
