package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// tenant is a customer whose pods share the machines with others'. A VNI of its own keeps its packets apart on the wire, a
// routing table of its own on the nodes; so its addresses may be another's too.
type tenant struct {
	name string // of its bridge, its driver's Owner and its pods
	id   uint32 // both of its VNI and of its routing table
}

// tenantNames are as many as the lab has colours for.
var tenantNames = [...]string{"red", "blue", "green", "gold"}

// firstTenant is beyond the VNI of the lab's own network, and below the kernel's own tables.
const firstTenant = 101

// tenantConf is every tenant's configuration but for the VNI: they all want the same addresses.
const tenantConf = `{
	"Network": "10.100.0.0/16", "EnableIPv4": %t, "IPv6Network": "fd00:100::/48", "EnableIPv6": %t,
	"Backend": {"Type": "vxlan", "VNI": %d}
}`

// addTenant gives a tenant a network on the cluster's machines: a cluster of its own, but for them.
func (c *cluster) addTenant(ctx context.Context, pods int) error {
	n := len(c.tenants)
	who := &tenant{name: tenantNames[n], id: uint32(firstTenant + n)}
	conf := fmt.Sprintf(tenantConf, !c.network.V4.IsZero(), !c.network.V6.IsZero(), who.id)
	network, err := subnet.ParseNetwork([]byte(conf))
	if err != nil {
		return err
	}
	own, ctx, err := newCluster(ctx, network)
	if err != nil {
		return err
	}
	own.tenant, own.fabric = who, c.fabric
	c.tenants = append(c.tenants, own)
	for i, m := range c.members {
		own.members = append(own.members, &member{machine: m.machine})
		if err := own.reserve(ctx, i+1); err != nil {
			return err
		}
	}
	if err := own.join(ctx, own.members...); err != nil {
		return fmt.Errorf("tenant %s: %w", who.name, err)
	}
	if err := own.attachPods(ctx, pods); err != nil {
		return fmt.Errorf("tenant %s: %w", who.name, err)
	}
	for _, m := range own.members {
		if err := who.keepApart(m); err != nil {
			return fmt.Errorf("tenant %s on %s: %w", who.name, m.machine.Name, err)
		}
	}
	return nil
}

// reserve sets the n-th subnet aside for the n-th node, so that tenants' pods have not only the same network but the very same
// addresses.
func (c *cluster) reserve(ctx context.Context, n int) error {
	var p subnet.Prefixes
	if !c.network.V4.IsZero() {
		p.V4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100, byte(n), 0}), 24)
	}
	if !c.network.V6.IsZero() {
		p.V6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x00, 0x01, 0x00, 7: byte(n)}), 64)
	}
	return c.store.(subnet.Reserver).Reserve(ctx, p, c.members[n-1].machine.Name)
}

// bridge is the name of the tenant's bridge on each node.
func (t *tenant) bridge() string {
	if t == nil {
		return "cni0"
	}
	return t.name + "0"
}

// owner marks what is the tenant's among a node's links and routes. The lab's own network has the usual one.
func (t *tenant) owner() string {
	if t == nil {
		return ""
	}
	return t.name
}

// compile is vxlan.Compile, with the routes in the tenant's table.
func (t *tenant) compile(node subnet.Node, snap *subnet.Snapshot) (vxlan.Spec, []subnet.Problem, error) {
	spec, problems, err := vxlan.Compile(node, snap)
	if t != nil {
		spec.Table = t.id
	}
	return spec, problems, err
}

// keepApart is all that separates tenants on a node: what comes from the tenant's bridge or out of its tunnels is routed by the
// tenant's table, `ip rule add iif red0 lookup 101`; and in that table the node's own pods are behind that bridge.
func (t *tenant) keepApart(m *member) error {
	k, err := openKernel(m.machine)
	if err != nil {
		return err
	}
	defer k.close()
	br, err := k.link(t.bridge())
	if err != nil {
		return err
	}
	from := []string{t.bridge()}
	for _, underlay := range m.machine.Addrs() {
		if name := vxlan.LinkName(t.id, underlay); k.has(name) {
			from = append(from, name)
		}
	}
	for prefix := range m.agent.Status().Lease.Prefixes.All() {
		of := netlink.FAMILY_V6
		if prefix.Addr().Is4() {
			of = netlink.FAMILY_V4
		}
		for _, link := range from {
			rule := netlink.NewRule()
			rule.Family, rule.IifName, rule.Table = of, link, int(t.id)
			if err := k.h.RuleAdd(rule); err != nil {
				return fmt.Errorf("rule for what comes from %s: %w", link, err)
			}
		}
		if err := k.h.RouteAdd(&netlink.Route{Table: int(t.id), LinkIndex: br.Attrs().Index, Dst: ipNet(prefix)}); err != nil {
			return fmt.Errorf("route to its own pods: %w", err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// overheard are the tenants in whose network an echo request of c's first pod to its last was seen: at the pod that has the same
// address there. One name is to be there, c's own.
func (c *cluster) overheard(ctx context.Context, all []*cluster) (seen []string, err error) {
	pods := slices.Collect(c.pods())
	from, to := pods[0], pods[len(pods)-1]
	dst := to.addresses[0]
	way := slices.Concat(address(from.addresses, dst).AsSlice(), dst.AsSlice()) // side by side in either family's header
	ears := map[string]*testnet.Capture{}
	defer func() {
		for _, ear := range ears {
			err = errors.Join(err, ear.Close())
		}
	}()
	for _, other := range all {
		for p := range other.pods() {
			if !slices.Contains(p.addresses, dst) {
				continue
			}
			if ears[other.tenant.name], err = p.machine.Capture("eth0"); err != nil {
				delete(ears, other.tenant.name)
				return nil, err
			}
		}
	}
	if _, err := once(ctx, from.machine, dst); err != nil {
		return nil, err
	}
	for name, ear := range ears {
		requests, err := ear.Count(func(p testnet.Packet) bool { return strings.Contains(string(p.Frame), string(way)) })
		if err != nil {
			return nil, err
		}
		if requests > 0 {
			seen = append(seen, name)
		}
	}
	return seen, nil
}

// tenantTable is the tenants' networks.
func (c *cluster) tenantTable() table {
	var t table
	t.head("tenant", "vni", "table", "pod", "node", "addresses")
	for _, own := range c.tenants {
		name, id := own.tenant.name, fmt.Sprint(own.tenant.id)
		for p := range own.pods() {
			t.row(cell{name, plain}, cell{id, dim}, cell{id, dim}, cell{p.name, bold}, cell{p.on.machine.Name, plain}, cell{join(p.addresses), cyan})
			name, id = "", "" // said once
		}
	}
	return t
}

// tenants is chapter 7, for whoever asks for it.
func (t *tour) tenants(ctx context.Context) error {
	if t.o.tenants == 0 {
		return nil
	}
	t.begin(fmt.Sprintf("%d tenants: the same addresses on the same machines", t.o.tenants))
	t.say("Each has leases, a VNI and a routing table of its own (vxlan.Spec.Table), and drivers with an Owner of its\n" +
		"own in this one process. What comes from a tenant's bridge or tunnels is routed by its table alone.")
	for range t.o.tenants {
		if err := t.c.addTenant(ctx, t.o.pods); err != nil {
			return err
		}
	}
	t.print(abridge(t.c.tenantTable(), 2*mostRows))
	for _, own := range t.c.tenants {
		if err := t.tenantTalks(ctx, own); err != nil {
			return fmt.Errorf("tenant %s: %w", own.tenant.name, err)
		}
	}
	return nil
}

// tenantTalks sees that a tenant's pods reach each other and nobody else's.
func (t *tour) tenantTalks(ctx context.Context, own *cluster) error {
	m := newMatrix(own, t.o.sample)
	if err := m.send(ctx); err != nil {
		return err
	}
	r := tenantReport{Name: own.tenant.name, VNI: own.tenant.id, Table: own.tenant.id, Pods: own.podReports(), Matrix: m.report()}
	err := m.verdict()
	if err == nil {
		r.SeenBy, err = own.overheard(ctx, t.c.tenants)
	}
	if err == nil && !slices.Equal(r.SeenBy, []string{own.tenant.name}) {
		err = fmt.Errorf("its packets were seen by %s", strings.Join(r.SeenBy, " and "))
	}
	t.tenantReports = append(t.tenantReports, r)
	if err != nil {
		t.mixed = errors.Join(t.mixed, fmt.Errorf("tenant %s: %w", own.tenant.name, err))
		t.say("%s %s: %s", t.out.paint(red, "✗"), own.tenant.name, err)
		return ctx.Err()
	}
	t.say("%s %s: %d of %d pings answered; of those with the same address, only its own pod saw them",
		t.out.paint(green, "✓"), own.tenant.name, r.Matrix.Received, r.Matrix.Sent)
	return nil
}
