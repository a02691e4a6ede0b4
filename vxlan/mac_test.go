package vxlan_test

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// TestMACIsThereFromTheStart: the very first announcement of a VTEP has its MAC. udev gives a MAC of its own choice to a link that
// appears without one (MACAddressPolicy=persistent in systemd.link(5)), and then peers would send to one that nobody has.
func TestMACIsThereFromTheStart(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	announced, stop := make(chan netlink.LinkUpdate, 1000), make(chan struct{})
	require.NoError(t, o.fabric.Nodes[0].Do(func() error { return netlink.LinkSubscribe(announced, stop) }))
	for _, made := range []string{"new", "made again"} {
		t.Run(made, func(t *testing.T) {
			o.apply(t)
			for _, v := range o.specs[0].VTEPs {
				name := vxlan.LinkName(v.VNI, v.Local)
				update := <-announced
				for update.Attrs().Name != name {
					update = <-announced
				}
				assert.Equal(t, v.MAC.String(), update.Attrs().HardwareAddr.String(), name)
			}
			_, err := o.drivers[0].Teardown(t.Context())
			require.NoError(t, err)
		})
	}
	close(stop)
	for range announced { // until the listener has ended
	}
}

// TestMACOutlivesTheNode: a node's VTEPs keep their MACs when its agent starts again, when the machine does, and when a person changed
// them meanwhile. Its peers, who are told nothing, go on sending to them.
func TestMACOutlivesTheNode(t *testing.T) {
	for _, tt := range []struct {
		name   string
		happen func(t *testing.T, h *netlink.Handle, vteps []netlink.Link)
		plan   string // of the first pass after it
	}{
		{name: "restart", happen: func(*testing.T, *netlink.Handle, []netlink.Link) {}},
		{name: "reboot", happen: func(t *testing.T, h *netlink.Handle, vteps []netlink.Link) {
			for _, l := range vteps { // and with them all that led through them
				require.NoError(t, h.LinkDel(l))
			}
		}, plan: "+ link flannel.1 "},
		{name: "changed by a person meanwhile", happen: func(t *testing.T, h *netlink.Handle, vteps []netlink.Link) {
			for i, l := range vteps {
				require.NoError(t, h.LinkSetHardwareAddr(l, hardware(podweft.MAC{2, 2, 2, 2, 3, byte(i)})))
			}
		}, plan: "~ link flannel.1 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := testnet.NewFabric(t, testnet.FabricConfig{})
			plan := network(t, dualStack)
			var leases []*subnet.Lease
			for i, n := range f.Nodes {
				leases = append(leases, leaseOf(i+1, true, true, n.V4.String(), n.V6.String()))
				leases[i].Data = publish(t, f, i, plan, subnet.Data{})
			}
			start := func(i int) (*vxlan.Driver, vxlan.Spec) {
				spec, problems, err := vxlan.Compile(machine(f, i, leases[i].Node), &subnet.Snapshot{Network: plan, Leases: leases})
				require.NoError(t, err)
				require.Empty(t, problems)
				return newDriver(t, f.Nodes[i]), spec
			}
			for i := range f.Nodes {
				d, spec := start(i)
				apply(t, d, spec)
			}
			h := inNode(t, f.Nodes[0])
			before := macs(t, h)
			require.Len(t, before, 2)

			tt.happen(t, h, []netlink.Link{linkNamed(t, h, "flannel.1"), linkNamed(t, h, "flannel-v6.1")})
			leases[0].Data = publish(t, f, 0, plan, stored(t, leases[0].Data))
			d, spec := start(0)
			first, err := d.Plan(t.Context(), spec)
			require.NoError(t, err)
			if tt.plan == "" {
				assert.Empty(t, first.String())
			}
			assert.Contains(t, first.String(), tt.plan)
			sabotage.Keep(t, d, spec)

			assert.Equal(t, before, macs(t, h))
			for _, p := range []netip.Prefix{leases[0].Prefixes.V4, leases[0].Prefixes.V6} {
				require.NoError(t, sabotage.Reach(t.Context(), f.Nodes[1], p.Addr(), testnet.Echo{}), "%s from a node that was told nothing", p)
			}
		})
	}
}

// machine is node number i of the fabric as subnet sees it.
func machine(f *testnet.Fabric, i int, name string) subnet.Node {
	n := f.Nodes[i]
	return subnet.Node{Name: name, Device: "eth0", MTU: 1500, Underlay: subnet.Addrs{V4: n.V4, V6: n.V6}}
}

func publish(t *testing.T, f *testnet.Fabric, i int, plan *subnet.Network, before subnet.Data) subnet.Data {
	t.Helper()
	data, _, err := vxlan.Publish(machine(f, i, f.Nodes[i].Name), plan, before)
	require.NoError(t, err)
	return data
}

// stored is what a store, or a state file, gives back.
func stored(t *testing.T, data subnet.Data) (again subnet.Data) {
	t.Helper()
	raw, err := json.Marshal(data)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &again))
	return again
}

// macs are those of the node's VTEPs.
func macs(t *testing.T, h *netlink.Handle) map[string]string {
	t.Helper()
	links, err := h.LinkList()
	require.NoError(t, err)
	found := map[string]string{}
	for _, l := range links {
		if l.Type() == "vxlan" {
			found[l.Attrs().Name] = l.Attrs().HardwareAddr.String()
		}
	}
	return found
}
