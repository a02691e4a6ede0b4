package vxlan_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// overlay is a VXLAN network over a testnet fabric, its Specs written by hand: node i (from 1) has the pod subnets
// 10.244.i.0/24 and fd00:244:0:i::/64, and its VTEPs answer at their zero addresses.
type overlay struct {
	fabric  *testnet.Fabric
	drivers []*vxlan.Driver
	specs   []vxlan.Spec
}

func newOverlay(t testing.TB, cfg testnet.FabricConfig, change func(*vxlan.Spec)) *overlay {
	t.Helper()
	o := &overlay{fabric: testnet.NewFabric(t, cfg)}
	macs := map[netip.Addr]podweft.MAC{}
	for i, n := range o.fabric.Nodes {
		for _, local := range n.Addrs() {
			macs[local] = podweft.MAC{0x0e, 0, 0, byte(local.BitLen()), 0, byte(i + 1)}
		}
	}
	for i, n := range o.fabric.Nodes {
		spec := handMade(o.fabric, i, macs)
		if change != nil {
			change(&spec)
		}
		d, err := vxlan.New(vxlan.Config{NetNS: n.NetNS()})
		require.NoError(t, err)
		t.Cleanup(func() { d.Close() })
		o.specs = append(o.specs, spec)
		o.drivers = append(o.drivers, d)
	}
	return o
}

func handMade(f *testnet.Fabric, own int, macs map[netip.Addr]podweft.MAC) vxlan.Spec {
	var spec vxlan.Spec
	for _, local := range f.Nodes[own].Addrs() {
		zero := podSubnet(own, local).Addr()
		spec.VTEPs = append(spec.VTEPs, vxlan.VTEP{
			VNI: 1, Device: "eth0", Local: local, MAC: macs[local],
			Addresses: []netip.Prefix{netip.PrefixFrom(zero, zero.BitLen())},
		})
	}
	for i, n := range f.Nodes {
		for _, to := range n.Addrs() {
			if i != own {
				spec.Peers = append(spec.Peers, vxlan.Peer{
					Node: n.Name, MAC: macs[to], Underlay: to, Prefixes: []netip.Prefix{podSubnet(i, to)},
				})
			}
		}
	}
	return spec
}

// podSubnet is that of node number i, from 0, in the family of a.
func podSubnet(i int, a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i+1))
	}
	return netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%x::/64", i+1))
}

func (o *overlay) apply(t testing.TB) {
	t.Helper()
	for i, d := range o.drivers {
		_, err := d.Apply(t.Context(), o.specs[i])
		require.NoError(t, err, o.fabric.Nodes[i].Name)
	}
}

// targets are the overlay addresses of node number i.
func (o *overlay) targets(i int) []netip.Addr {
	var all []netip.Addr
	for _, v := range o.specs[i].VTEPs {
		for _, a := range v.Addresses {
			all = append(all, a.Addr())
		}
	}
	return all
}

// requireReachable pings every node from every other, over every family. It is patient for a moment: the kernel makes an IPv6
// address its own in a work queue, some time after it has accepted it (addrconf_dad_work in net/ipv6/addrconf.c).
func (o *overlay) requireReachable(t testing.TB) {
	t.Helper()
	for i, from := range o.fabric.Nodes {
		for j := range o.fabric.Nodes {
			if i == j {
				continue
			}
			for _, to := range o.targets(j) {
				require.NoError(t, sabotage.Reach(t.Context(), from, to, testnet.Echo{}), "%s to %s", from.Name, to)
			}
		}
	}
}
