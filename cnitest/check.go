package cnitest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/podweft/podweft/internal/nl"
)

func version(ctx context.Context, r *runner) error {
	a, err := r.call(ctx, []byte(`{"cniVersion":"1.0.0"}`), map[string]string{"CNI_COMMAND": "VERSION"})
	if err != nil {
		return err
	}
	var v struct {
		CNIVersion string   `json:"cniVersion"`
		Supported  []string `json:"supportedVersions"`
	}
	if err := json.Unmarshal(a.stdout, &v); err != nil || a.code != 0 {
		return fmt.Errorf("exit code %d, %q", a.code, short(a.stdout))
	}
	if v.CNIVersion == "" || !slices.Contains(v.Supported, r.list.CNIVersion) {
		return fmt.Errorf("%s does not list %s", short(a.stdout), r.list.CNIVersion)
	}
	return nil
}

func unsupportedVersion(ctx context.Context, r *runner) error {
	p, err := r.pod("v2")
	if err != nil {
		return err
	}
	a, err := r.call(ctx, r.first(map[string]any{"cniVersion": "99.0.0"}), r.vars("ADD", p))
	if err != nil {
		return err
	}
	return a.failedWith(1)
}

func errorShape(ctx context.Context, r *runner) error {
	p, err := r.pod("e1")
	if err != nil {
		return err
	}
	vars := r.vars("ADD", p)
	vars["CNI_NETNS"] = "/nowhere/cnitest"
	a, err := r.call(ctx, r.first(nil), vars)
	if err != nil {
		return err
	}
	f, err := a.failed()
	if err == nil && f.CNIVersion != r.list.CNIVersion {
		err = fmt.Errorf("cniVersion is %q, not %q", f.CNIVersion, r.list.CNIVersion)
	}
	return err
}

func variables(ctx context.Context, r *runner) error {
	p, err := r.pod("e2")
	if err != nil {
		return err
	}
	tests := []struct {
		change map[string]string
		names  []string
	}{
		{map[string]string{"CNI_COMMAND": "JUMP"}, []string{"CNI_COMMAND"}},
		{map[string]string{"CNI_CONTAINERID": "", "CNI_IFNAME": ""}, []string{"CNI_CONTAINERID", "CNI_IFNAME"}},
		{map[string]string{"CNI_NETNS": ""}, []string{"CNI_NETNS"}},
		{map[string]string{"CNI_CONTAINERID": "../../etc"}, nil},
		{map[string]string{"CNI_IFNAME": "a/b"}, nil},
		{map[string]string{"CNI_IFNAME": "sixteenletters16"}, nil},
	}
	var errs []error
	for _, test := range tests {
		vars := r.vars("ADD", p)
		for k, v := range test.change {
			vars[k] = v
		}
		a, err := r.call(ctx, r.first(nil), vars)
		if err == nil {
			err = a.failedWith(4, test.names...)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%v: %w", test.change, err))
		}
	}
	return errors.Join(errs...)
}

func badInput(ctx context.Context, r *runner) error {
	p, err := r.pod("e3")
	if err != nil {
		return err
	}
	a, err := r.call(ctx, []byte(`{"cniVersion": "1.0.0", "name"`), r.vars("ADD", p))
	if err == nil {
		err = a.failedWith(6)
	}
	if err != nil {
		err = fmt.Errorf("bad JSON: %w", err)
	}
	b, errB := r.call(ctx, r.first(map[string]any{"name": "not a name!"}), r.vars("ADD", p))
	if errB == nil {
		errB = b.failedWith(7)
	}
	if errB != nil {
		errB = fmt.Errorf("bad name: %w", errB)
	}
	return errors.Join(err, errB)
}

// ofOnePod are the kinds of links that a plugin makes for one pod. Others, a bridge or a tunnel, may be all pods'.
var ofOnePod = []string{"veth", "macvlan", "macvtap", "ipvlan", "vlan", "tun"}

// leavesNothing compares the node's links before and after fn.
func (r *runner) leavesNothing(fn func() error) error {
	before, err := r.node.Links()
	if err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	after, err := r.node.Links()
	if err != nil {
		return err
	}
	for _, l := range after {
		was := func(b nl.Link) bool { return b.Index == l.Index }
		if slices.Contains(ofOnePod, l.Kind) && !slices.ContainsFunc(before, was) {
			return fmt.Errorf("link %s is left behind", l.Name)
		}
	}
	return nil
}

func noNamespace(ctx context.Context, r *runner) error {
	p, err := r.pod("e4")
	if err != nil {
		return err
	}
	vars := r.vars("ADD", p)
	vars["CNI_NETNS"] = "/nowhere/cnitest"
	return r.leavesNothing(func() error {
		a, err := r.call(ctx, r.first(nil), vars)
		if err == nil {
			_, err = a.failed()
		}
		return err
	})
}

func ownNamespace(ctx context.Context, r *runner) error {
	p, err := r.pod("e5")
	if err != nil {
		return err
	}
	vars := r.vars("ADD", p)
	vars["CNI_NETNS"] = fmt.Sprintf("/proc/%d/ns/net", os.Getpid())
	vars["CNI_IFNAME"] = "cnitest0"
	err = r.leavesNothing(func() error {
		a, err := r.call(ctx, r.first(nil), vars)
		if err == nil {
			_, err = a.failed()
		}
		return err
	})
	if _, missing := r.node.Link("cnitest0"); missing == nil {
		err = errors.Join(err, errors.New("it made the interface"))
	}
	vars["CNI_COMMAND"], vars["CNI_NETNS"] = "DEL", ""
	_, cleaned := r.call(ctx, r.first(nil), vars)
	return errors.Join(err, cleaned)
}

func makesInterface(ctx context.Context, r *runner) error {
	p, _, err := r.attach(ctx, "a1")
	if err != nil {
		return err
	}
	if there, err := p.attached(); err != nil || !there {
		return errors.Join(err, errors.New("there is no eth0 in the pod"))
	}
	a, err := r.call(ctx, r.first(nil), r.vars("ADD", p))
	if err != nil {
		return err
	}
	if _, err := a.failed(); err != nil {
		return fmt.Errorf("a second ADD of the same interface: %w", err)
	}
	if there, err := p.attached(); err != nil || !there {
		return errors.Join(err, errors.New("the second ADD, which failed, took the interface away"))
	}
	return nil
}

// attach adds a new pod to the network.
func (r *runner) attach(ctx context.Context, id string) (*pod, *types100.Result, error) {
	p, err := r.pod(id)
	if err != nil {
		return nil, nil, err
	}
	result, err := r.add(ctx, p)
	return p, result, err
}

func (r *runner) add(ctx context.Context, p *pod) (*types100.Result, error) {
	result, err := r.cni.AddNetworkList(ctx, r.list, p.runtime())
	if err != nil {
		return nil, fmt.Errorf("ADD: %w", err)
	}
	return types100.GetResult(result)
}

func resultShape(ctx context.Context, r *runner) error {
	p, result, err := r.attach(ctx, "a2")
	if err != nil {
		return err
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	late, _ := cniversion.GreaterThanOrEqualTo(r.list.CNIVersion, "1.1.0")
	inside := -1
	for i, l := range result.Interfaces {
		if _, err := net.ParseMAC(l.Mac); err != nil {
			bad("interface %s has no MAC", l.Name)
		}
		if late && l.Mtu == 0 {
			bad("interface %s has no MTU", l.Name)
		}
		switch {
		case l.Sandbox == p.netns() && l.Name == "eth0":
			inside = i
		case l.Sandbox == p.netns():
		case l.Sandbox != "":
			bad("interface %s has the sandbox %s, which is not CNI_NETNS", l.Name, l.Sandbox)
		default:
			if _, err := r.node.Link(l.Name); err != nil {
				bad("interface %s is not on the node", l.Name)
			}
		}
	}
	if inside < 0 {
		bad("the pod's interface is not listed")
	}
	if len(result.IPs) == 0 {
		bad("there is no address")
	}
	for _, ip := range result.IPs {
		if ip.Interface == nil || *ip.Interface != inside {
			bad("address %s does not point to the pod's interface", ip.Address.String())
		}
	}
	return errors.Join(errs...)
}

func passesOn(ctx context.Context, r *runner) error {
	if len(r.list.Plugins) < 2 {
		return errSkip("the list has one plugin only")
	}
	_, result, err := r.attach(ctx, "a3")
	if err != nil {
		return err
	}
	if len(result.Interfaces) == 0 || len(result.IPs) == 0 {
		return errors.New("the last plugin's result lacks what the first one answered")
	}
	return nil
}

// failsCleanly lets ADD fail late: a link of the pod has the name already.
func failsCleanly(ctx context.Context, r *runner) error {
	p, err := r.pod("a4")
	if err != nil {
		return err
	}
	err = p.inside(func(c *nl.Conn) error {
		var b nl.Batch
		b.CreateBridge(nl.Link{Name: "eth0"})
		return errors.Join(c.Do(ctx, &b)...)
	})
	if err != nil {
		return err
	}
	err = r.leavesNothing(func() error {
		a, err := r.call(ctx, r.first(nil), r.vars("ADD", p))
		if err == nil {
			_, err = a.failed()
		}
		return err
	})
	if there, hasErr := p.attached(); err == nil && !there {
		err = errors.Join(hasErr, errors.New("the link that was in the way is gone"))
	}
	return errors.Join(err, r.keepsNoAddress(ctx, p))
}

// crowd is how many pods, one after the other, are enough to use up a /28.
const crowd = 20

// keepsNoAddress lets more ADDs fail, for as many containers: where the list's subnet is small, the next pod gets no address if
// those have kept theirs.
func (r *runner) keepsNoAddress(ctx context.Context, in *pod) error {
	var failed []*pod
	for i := range crowd {
		p := &pod{id: fmt.Sprintf("%s-%d", in.id, i), ns: in.ns}
		if _, err := r.call(ctx, r.first(nil), r.vars("ADD", p)); err != nil {
			return err
		}
		failed = append(failed, p)
	}
	_, _, err := r.attach(ctx, "a4-after")
	if err != nil {
		err = fmt.Errorf("after %d ADDs that failed another pod cannot be attached: %w", crowd+1, err)
	}
	for _, p := range failed {
		_ = r.del(ctx, p, nil, nil) // what goes wrong here, a rule of its own says
	}
	return err
}

// recycles attaches pods and detaches them until one gets the address of one before it.
func recycles(ctx context.Context, r *runner) error {
	seen := map[string]bool{}
	for i := range crowd {
		p, result, err := r.attach(ctx, fmt.Sprintf("d5-%d", i))
		if err != nil {
			return fmt.Errorf("after %d pods that came and went: %w", i, err)
		}
		if err := r.cni.DelNetworkList(ctx, r.list, p.runtime()); err != nil {
			return fmt.Errorf("DEL: %w", err)
		}
		for _, ip := range result.IPs {
			if seen[ip.Address.String()] {
				return nil
			}
			seen[ip.Address.String()] = true
		}
	}
	return errSkip(fmt.Sprintf("%d pods that came and went had an address each that none had had before: "+
		"with a smaller subnet in the list, a /28, it can be seen whether one comes back", crowd))
}

// resultHolds looks for what the result says in the kernel.
func resultHolds(ctx context.Context, r *runner) error {
	p, result, err := r.attach(ctx, "a7")
	if err != nil {
		return err
	}
	return p.inside(func(c *nl.Conn) error {
		eth0, err := c.Link("eth0")
		if err != nil {
			return err
		}
		addresses, err := c.Addresses(eth0.Index)
		if err != nil {
			return err
		}
		var routes []nl.Route
		err = c.Hops(ctx, func() { routes = nil }, func(hop nl.Route) { routes = append(routes, hop) })
		return errors.Join(err, sameLink(result, p, eth0), sameAddresses(result, addresses), sameRoutes(result, routes))
	})
}

func sameLink(result *types100.Result, p *pod, eth0 nl.Link) error {
	var errs []error
	for _, l := range result.Interfaces {
		if l.Sandbox != p.netns() || l.Name != "eth0" {
			continue
		}
		if l.Mac != "" && !strings.EqualFold(l.Mac, eth0.MAC.String()) {
			errs = append(errs, fmt.Errorf("eth0 has the MAC %s, not %s", eth0.MAC, l.Mac))
		}
		if l.Mtu != 0 && l.Mtu != eth0.MTU {
			errs = append(errs, fmt.Errorf("eth0 has the MTU %d, not %d", eth0.MTU, l.Mtu))
		}
	}
	return errors.Join(errs...)
}

func sameAddresses(result *types100.Result, have []nl.Address) error {
	var errs []error
	for _, ip := range result.IPs {
		is := func(a nl.Address) bool { return a.Prefix == prefixOf(ip.Address) }
		if !slices.ContainsFunc(have, is) {
			errs = append(errs, fmt.Errorf("eth0 does not have the address %s", ip.Address.String()))
		}
	}
	return errors.Join(errs...)
}

// sameRoutes looks in all tables, since a plugin behind the first may have put the routes into another. A route without a gateway
// may go by the one of an address, or by none.
func sameRoutes(result *types100.Result, have []nl.Route) error {
	var errs []error
	for _, want := range result.Routes {
		dst, via := prefixOf(want.Dst), prefixOf(net.IPNet{IP: want.GW}).Addr()
		var vias []string
		found := false
		for _, h := range have {
			if h.Prefix == dst {
				found = found || !via.IsValid() || h.Gateway == via
				vias = append(vias, h.Gateway.String())
			}
		}
		switch {
		case len(vias) == 0:
			errs = append(errs, fmt.Errorf("the pod has no route to %s", dst))
		case !found:
			errs = append(errs, fmt.Errorf("the pod's route to %s is by %s, not by %s", dst, strings.Join(vias, ", "), via))
		}
	}
	return errors.Join(errs...)
}

func prefixOf(n net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP) // of none it is the zero Addr
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits)
}

func resultVersion(ctx context.Context, r *runner) error {
	var errs []error
	for _, v := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		if err := r.supports(ctx, v); err != nil {
			continue
		}
		p, err := r.pod("a5-" + v)
		if err != nil {
			return err
		}
		a, err := r.call(ctx, r.first(map[string]any{"cniVersion": v}), r.vars("ADD", p))
		if err != nil {
			return err
		}
		if err := a.object(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", v, err))
			continue
		}
		result, err := cniversion.NewResult(v, a.stdout)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", v, err))
		case result.Version() != v:
			errs = append(errs, fmt.Errorf("%s: the result is of %s", v, result.Version()))
		}
	}
	return errors.Join(errs...)
}

func unknownArguments(ctx context.Context, r *runner) error {
	p, err := r.pod("a6")
	if err != nil {
		return err
	}
	vars := r.vars("ADD", p)
	vars["CNI_ARGS"] = "CNITEST_UNKNOWN=1"
	a, err := r.call(ctx, r.first(nil), vars)
	if err != nil {
		return err
	}
	if _, err := a.failed(); err != nil {
		return fmt.Errorf("an unknown argument: %w", err)
	}
	vars["CNI_ARGS"] = "CNITEST_UNKNOWN=1;IgnoreUnknown=1"
	if a, err = r.call(ctx, r.first(nil), vars); err == nil && a.code != 0 {
		err = fmt.Errorf("with IgnoreUnknown: %s", short(a.stdout))
	}
	return err
}

// del calls DEL by hand: without prevResult, and with these changes of the variables.
func (r *runner) del(ctx context.Context, p *pod, change map[string]string, set map[string]any) error {
	vars := r.vars("DEL", p)
	for k, v := range change {
		vars[k] = v
	}
	a, err := r.call(ctx, r.first(set), vars)
	if err == nil && a.code != 0 {
		err = fmt.Errorf("DEL: %s", short(a.stdout))
	}
	return err
}

func deletesWithout(ctx context.Context, r *runner) error {
	var errs []error
	p, _, err := r.attach(ctx, "d1-gone")
	if err != nil {
		return err
	}
	err = p.inside(func(c *nl.Conn) error {
		l, err := c.Link("eth0")
		if err != nil {
			return err
		}
		var b nl.Batch
		b.DeleteLink(l.Index)
		return errors.Join(c.Do(ctx, &b)...)
	})
	if err == nil {
		err = r.del(ctx, p, nil, nil)
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("interface gone: %w", err))
	}
	for name, netns := range map[string]string{"namespace gone": "/nowhere/cnitest", "CNI_NETNS not given": ""} {
		if p, _, err = r.attach(ctx, "d1-"+strings.ReplaceAll(name, " ", "-")); err != nil {
			return err
		}
		err = r.del(ctx, p, map[string]string{"CNI_NETNS": netns}, nil)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func deletesTwice(ctx context.Context, r *runner) error {
	never, err := r.pod("d2-never")
	if err != nil {
		return err
	}
	if err := r.del(ctx, never, nil, nil); err != nil {
		return fmt.Errorf("before any ADD: %w", err)
	}
	p, _, err := r.attach(ctx, "d2")
	if err != nil {
		return err
	}
	for range 2 {
		if err := r.del(ctx, p, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// deletes expects nothing to be left on the node by an ADD and a DEL with these changes.
func (r *runner) deletes(ctx context.Context, id string, set map[string]any) error {
	var p *pod
	return r.leavesNothing(func() (err error) {
		var result *types100.Result
		if p, result, err = r.attach(ctx, id); err != nil {
			return err
		}
		if err := r.del(ctx, p, map[string]string{"CNI_NETNS": ""}, set); err != nil {
			return err
		}
		again, err := r.pod(id + "-again")
		if err != nil {
			return err
		}
		return r.reuses(ctx, again, result)
	})
}

// reuses attaches a pod that asks for the addresses of another, which has to be gone. A plugin that takes no wishes is not
// asked.
func (r *runner) reuses(ctx context.Context, p *pod, of *types100.Result) error {
	var ips []string
	for _, ip := range of.IPs {
		ips = append(ips, ip.Address.String())
	}
	vars := r.vars("ADD", p)
	vars["CNI_ARGS"] = "IgnoreUnknown=1"
	a, err := r.call(ctx, r.first(map[string]any{"runtimeConfig": map[string]any{"ips": ips}}), vars)
	if err == nil && a.code != 0 {
		err = fmt.Errorf("its addresses %v cannot be given again: %s", ips, short(a.stdout))
	}
	return errors.Join(err, r.del(ctx, p, nil, nil))
}

func deletesWithoutResult(ctx context.Context, r *runner) error { return r.deletes(ctx, "d3", nil) }

func deletesAfterChange(ctx context.Context, r *runner) error {
	p, result, err := r.attach(ctx, "d4")
	if err != nil {
		return err
	}
	other := map[string]any{
		"type":   r.list.Plugins[0].Network.IPAM.Type,
		"ranges": [][]map[string]string{{{"subnet": "198.18.0.0/24"}}},
	}
	if err := r.del(ctx, p, nil, map[string]any{"ipam": other}); err != nil {
		return err
	}
	if there, err := p.attached(); err != nil || there {
		return errors.Join(err, errors.New("the interface is still there"))
	}
	again, err := r.pod("d4-again")
	if err != nil {
		return err
	}
	return r.reuses(ctx, again, result)
}

func checks(ctx context.Context, r *runner) error {
	if late, _ := cniversion.GreaterThanOrEqualTo(r.list.CNIVersion, "0.4.0"); !late {
		return errSkip("the list's cniVersion has no CHECK")
	}
	deeds := []struct {
		name string
		do   func(c *nl.Conn, l nl.Link, b *nl.Batch) error
	}{
		{"interface", func(_ *nl.Conn, l nl.Link, b *nl.Batch) error { b.DeleteLink(l.Index); return nil }},
		{"address", func(c *nl.Conn, l nl.Link, b *nl.Batch) error {
			all, err := c.Addresses(l.Index)
			for _, a := range all {
				if !a.LinkScope {
					b.DeleteAddress(a)
				}
			}
			return err
		}},
		{"routes", func(_ *nl.Conn, l nl.Link, b *nl.Batch) error {
			b.SetUp(l.Index, false)
			b.SetUp(l.Index, true)
			return nil
		}},
	}
	var errs []error
	for _, deed := range deeds {
		p, result, err := r.attach(ctx, "c1-"+deed.name)
		if err != nil {
			return err
		}
		if deed.name == "routes" && len(result.Routes) == 0 {
			continue
		}
		if err := r.cni.CheckNetworkList(ctx, r.list, p.runtime()); err != nil {
			return fmt.Errorf("right after ADD: %w", err)
		}
		err = p.inside(func(c *nl.Conn) error {
			l, err := c.Link("eth0")
			if err != nil {
				return err
			}
			var b nl.Batch
			if err := deed.do(c, l, &b); err != nil {
				return err
			}
			return errors.Join(c.Do(ctx, &b)...)
		})
		if err != nil {
			return err
		}
		if r.cni.CheckNetworkList(ctx, r.list, p.runtime()) == nil {
			errs = append(errs, fmt.Errorf("the pod's %s gone: CHECK passes", deed.name))
		}
	}
	return errors.Join(errs...)
}

func checkSilent(ctx context.Context, r *runner) error {
	if late, _ := cniversion.GreaterThanOrEqualTo(r.list.CNIVersion, "0.4.0"); !late {
		return errSkip("the list's cniVersion has no CHECK")
	}
	p, err := r.pod("c2")
	if err != nil {
		return err
	}
	vars := r.vars("ADD", p)
	vars["CNI_ARGS"] = "IgnoreUnknown=1"
	a, err := r.call(ctx, r.first(nil), vars)
	if err != nil {
		return err
	}
	if err := a.object(); err != nil {
		return fmt.Errorf("ADD: %w", err)
	}
	b, err := r.call(ctx, r.first(map[string]any{"prevResult": json.RawMessage(a.stdout)}), r.vars("CHECK", p))
	if err == nil && (b.code != 0 || len(b.stdout) > 0) {
		err = fmt.Errorf("exit code %d, %q", b.code, short(b.stdout))
	}
	return errors.Join(err, checksDelegate(ctx, r))
}

func commandsOfVersion(ctx context.Context, r *runner) error {
	p, err := r.pod("c3")
	if err != nil {
		return err
	}
	var errs []error
	for command, v := range map[string]string{"CHECK": "0.3.1", "STATUS": "1.0.0", "GC": "1.0.0"} {
		if command != "CHECK" && r.latest(ctx) != nil {
			continue // a plugin that does not know 1.1.0 does not know its commands
		}
		vars := r.vars(command, nil)
		if command == "CHECK" {
			vars = r.vars(command, p)
		}
		a, err := r.call(ctx, r.first(map[string]any{"cniVersion": v}), vars)
		if err == nil {
			err = a.failedWith(1)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s in %s: %w", command, v, err))
		}
	}
	return errors.Join(errs...)
}

// latest skips what came with version 1.1.0 of the specification.
func (r *runner) latest(ctx context.Context) error { return r.supports(ctx, "1.1.0") }

// supports skips what a plugin without that version need not do.
func (r *runner) supports(ctx context.Context, v string) error {
	a, err := r.call(ctx, []byte(`{"cniVersion":"1.0.0"}`), map[string]string{"CNI_COMMAND": "VERSION"})
	if err == nil && !strings.Contains(string(a.stdout), `"`+v+`"`) {
		err = errSkip("the plugin does not support " + v)
	}
	return err
}

func status(ctx context.Context, r *runner) error {
	if err := r.latest(ctx); err != nil {
		return err
	}
	a, err := r.call(ctx, r.first(map[string]any{"cniVersion": "1.1.0"}), r.vars("STATUS", nil))
	if err == nil && (a.code != 0 || len(a.stdout) > 0) {
		err = fmt.Errorf("exit code %d, %q", a.code, short(a.stdout))
	}
	return errors.Join(err, statusOfDelegate(ctx, r))
}

func (r *runner) gc(ctx context.Context, valid ...*pod) error {
	list := []types.GCAttachment{}
	for _, p := range valid {
		list = append(list, types.GCAttachment{ContainerID: p.id, IfName: "eth0"})
	}
	a, err := r.call(ctx, r.first(map[string]any{"cniVersion": "1.1.0", "cni.dev/valid-attachments": list}), r.vars("GC", nil))
	if err == nil && a.code != 0 {
		err = fmt.Errorf("GC: %s", short(a.stdout))
	}
	return err
}

// collects lets two pods' DEL never come.
func collects(ctx context.Context, r *runner) error {
	if err := r.latest(ctx); err != nil {
		return err
	}
	alive, _, err := r.attach(ctx, "g1-alive")
	if err != nil {
		return err
	}
	dead, result, err := r.attach(ctx, "g1-dead")
	if err != nil {
		return err
	}
	if err := r.gc(ctx, alive); err != nil {
		return err
	}
	if there, err := alive.attached(); err != nil || !there {
		return errors.Join(err, errors.New("a valid attachment was removed"))
	}
	if there, err := dead.attached(); err != nil || there {
		return errors.Join(err, errors.New("the interface of a stale attachment is still there"))
	}
	again, err := r.pod("g1-again")
	if err != nil {
		return err
	}
	return errors.Join(r.reuses(ctx, again, result), collectsDelegates(ctx, r))
}

func collectsAll(ctx context.Context, r *runner) error {
	if err := r.latest(ctx); err != nil {
		return err
	}
	p, result, err := r.attach(ctx, "g2")
	if err != nil {
		return err
	}
	a, err := r.call(ctx, r.first(map[string]any{"cniVersion": "1.1.0"}), r.vars("GC", nil))
	if err != nil || a.code != 0 {
		return errors.Join(err, fmt.Errorf("GC: %s", short(a.stdout)))
	}
	if there, err := p.attached(); err != nil || there {
		return errors.Join(err, errors.New("the interface is still there"))
	}
	again, err := r.pod("g2-again")
	if err != nil {
		return err
	}
	return r.reuses(ctx, again, result)
}

func collectsBesideAdd(ctx context.Context, r *runner) error {
	if err := r.latest(ctx); err != nil {
		return err
	}
	var pods []*pod
	for i := range 4 {
		p, err := r.pod(fmt.Sprintf("g3-%d", i))
		if err != nil {
			return err
		}
		pods = append(pods, p)
	}
	done := make(chan error, len(pods))
	for _, p := range pods {
		go func() {
			_, err := r.add(ctx, p)
			done <- err
		}()
	}
	errs := []error{r.gc(ctx, pods...)}
	for range pods {
		errs = append(errs, <-done)
	}
	for _, p := range pods {
		if there, err := p.attached(); err != nil || !there {
			errs = append(errs, err, fmt.Errorf("%s lost its interface", p.id))
		}
	}
	return errors.Join(errs...)
}

func concurrent(ctx context.Context, r *runner) error {
	const many = 8
	type outcome struct {
		result *types100.Result
		err    error
	}
	done := make(chan outcome, many)
	for i := range many {
		p, err := r.pod(fmt.Sprintf("l1-%d", i))
		if err != nil {
			return err
		}
		go func() {
			result, err := r.add(ctx, p)
			done <- outcome{result, err}
		}()
	}
	var errs []error
	seen := map[string]bool{}
	for range many {
		o := <-done
		if o.err != nil {
			errs = append(errs, o.err)
			continue
		}
		for _, ip := range o.result.IPs {
			if a := ip.Address.String(); seen[a] {
				errs = append(errs, fmt.Errorf("%s was given twice", a))
			} else {
				seen[a] = true
			}
		}
	}
	return errors.Join(errs...)
}

func portMappings(ctx context.Context, r *runner) error {
	capable := slices.ContainsFunc(r.list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Capabilities["portMappings"] })
	if !capable {
		return errSkip("no plugin of the list has the capability portMappings")
	}
	for i, mapping := range []map[string]any{
		{"hostPort": 31080, "containerPort": 80, "protocol": "tcp"},
		{"HostPort": 31081, "ContainerPort": 80, "Protocol": "udp", "HostIP": ""},
	} {
		p, err := r.pod(fmt.Sprintf("l2-%d", i))
		if err != nil {
			return err
		}
		rt := p.runtime()
		rt.CapabilityArgs = map[string]any{"portMappings": []any{mapping}}
		if _, err := r.cni.AddNetworkList(ctx, r.list, rt); err != nil {
			return fmt.Errorf("%v: %w", mapping, err)
		}
		if late, _ := cniversion.GreaterThanOrEqualTo(r.list.CNIVersion, "0.4.0"); late {
			if err := r.cni.CheckNetworkList(ctx, r.list, rt); err != nil {
				return fmt.Errorf("%v: CHECK: %w", mapping, err)
			}
		}
		if err := r.cni.DelNetworkList(ctx, r.list, rt); err != nil {
			return fmt.Errorf("%v: DEL: %w", mapping, err)
		}
	}
	return nil
}

func keptResult(ctx context.Context, r *runner) error {
	p, _, err := r.attach(ctx, "r1")
	if err != nil {
		return err
	}
	kept, err := r.cni.GetNetworkListCachedResult(r.list, p.runtime())
	if err != nil || kept == nil {
		return errors.Join(err, errors.New("the runtime could not keep the result"))
	}
	if late, _ := cniversion.GreaterThanOrEqualTo(r.list.CNIVersion, "0.4.0"); late {
		if err := r.cni.CheckNetworkList(ctx, r.list, p.runtime()); err != nil {
			return err
		}
	}
	if err := r.cni.DelNetworkList(ctx, r.list, p.runtime()); err != nil {
		return err
	}
	if there, err := p.attached(); err != nil || there {
		return errors.Join(err, errors.New("the interface is still there"))
	}
	return nil
}

func disabledCheck(ctx context.Context, r *runner) error {
	p, err := r.pod("r2")
	if err != nil {
		return err
	}
	list := *r.list
	list.DisableCheck = true
	if late, _ := cniversion.GreaterThanOrEqualTo(r.list.CNIVersion, "0.4.0"); !late {
		return errSkip("the list's cniVersion has no CHECK")
	}
	return r.cni.CheckNetworkList(ctx, &list, p.runtime()) // of a pod that was never attached
}
