package iptables_test

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/sysctl"
	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/iptables"
	"github.com/podweft/podweft/testnet"
)

// refusal is how long a packet that is dropped is waited for.
const refusal = 200 * time.Millisecond

// TestBridge: policies hold between ports of one bridge too; where they cannot, nothing passes there.
func TestBridge(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		n, web, client := testnet.NewNode(t, "node"), testnet.NewNode(t, "web"), testnet.NewNode(t, "client")
		bridged(t, n, web, client)
		d := newDriver(t, n, cfg)
		spec := iptables.Spec{Rules: compiled(t, world.Village(), "node-1"), Bridges: []string{"cni0"}}
		reaches := func(from *testnet.Node, to int, wait time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			_, err := from.Ping(ctx, world.Village().Pods[to].Addresses[0])
			return err
		}
		apply(t, d, spec)
		require.NoError(t, reaches(web, 1, patience))
		require.Error(t, reaches(client, 0, refusal), "web is isolated")

		d.WithoutBridgeNetfilter(true)
		plan, err := d.Apply(t.Context(), spec)
		require.ErrorIs(t, err, podweft.ErrNotSupported)
		assert.Contains(t, plan.String(), "~ table bridge pwubbu-policies  # closes ")
		require.Error(t, reaches(web, 1, refusal))

		d.WithoutBridgeNetfilter(false)
		assert.Equal(t, "- table bridge pwubbu-policies  # policies reach the bridges\n", apply(t, d, spec).String())
		require.NoError(t, reaches(web, 1, patience))
	})
}

// TestBridgeTurnedOff: whoever turns br_netfilter off does not open the bridge for longer than until the next pass.
func TestBridgeTurnedOff(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		n, web, client := testnet.NewNode(t, "node"), testnet.NewNode(t, "web"), testnet.NewNode(t, "client")
		bridged(t, n, web, client)
		loop := running(t, newDriver(t, n, cfg))
		spec := iptables.Spec{Rules: compiled(t, world.Village(), "node-1"), Bridges: []string{"cni0"}}
		set(t, loop, spec)
		reaches := func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), refusal)
			defer cancel()
			_, err := client.Ping(ctx, world.Village().Pods[0].Addresses[0])
			return err == nil
		}
		require.False(t, reaches(), "web is isolated")
		require.NoError(t, sysctl.Ensure(n.NetNS(), "net/bridge/bridge-nf-call-iptables", "0"))
		require.Eventually(t, reaches, patience, time.Millisecond, "nothing is asked")
		set(t, loop, spec)
		require.False(t, reaches())
	})
}

// bridged makes village's web and client ports of n's bridge cni0.
func bridged(t testing.TB, n *testnet.Node, pods ...*testnet.Node) {
	t.Helper()
	h := handle(t, n)
	cni0 := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0", TxQLen: -1}}
	require.NoError(t, h.LinkAdd(cni0))
	require.NoError(t, h.LinkSetUp(cni0))
	for i, pod := range pods {
		inside, err := os.Open(pod.NetNS())
		require.NoError(t, err)
		port := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: pod.Name, TxQLen: -1, MasterIndex: cni0.Index}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(inside.Fd())),
		}
		require.NoError(t, h.LinkAdd(port))
		require.NoError(t, inside.Close())
		require.NoError(t, h.LinkSetUp(port))
		eth0, err := handle(t, pod).LinkByName("eth0")
		require.NoError(t, err)
		for _, a := range world.Village().Pods[i].Addresses {
			network := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen()-8, a.BitLen())}
			require.NoError(t, handle(t, pod).AddrAdd(eth0, &netlink.Addr{IPNet: network, Flags: unix.IFA_F_NODAD}))
		}
		require.NoError(t, handle(t, pod).LinkSetUp(eth0))
	}
}

func handle(t testing.TB, n *testnet.Node) *netlink.Handle {
	t.Helper()
	var h *netlink.Handle
	require.NoError(t, n.Do(func() (err error) {
		h, err = netlink.NewHandle()
		return err
	}))
	t.Cleanup(h.Close)
	return h
}
