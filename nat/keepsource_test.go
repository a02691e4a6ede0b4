package nat_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/testnet"
)

// keeping is both with KeepSource.
func keeping(port uint16, pod *testnet.Node) (all []nat.HostPort) {
	for _, h := range both(port, pod) {
		h.KeepSource = true
		all = append(all, h)
	}
	return all
}

// unseen lets the kernel pass what stays on a bridge by netfilter, which sees it where br_netfilter is loaded.
func unseen(t *testing.T, node *testnet.Node) {
	t.Helper()
	require.NoError(t, node.Do(func() error {
		if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
			return nil
		}
		return set("net/bridge/bridge-nf-call-iptables=0", "net/bridge/bridge-nf-call-ip6tables=0")
	}))
}

// TestKeepSource: nobody gets another address at such a host port, whatever that costs. At the one beside it who needs it does.
func TestKeepSource(t *testing.T) {
	b := newBridged(t)
	unseen(t, b.node)
	sabotage.Serve(t, b.pods[0])
	door := newDoors(t, b.pods[1])
	for _, ports := range [][]nat.HostPort{keeping(8000, b.pods[0]), both(8001, b.pods[0]), keeping(8002, b.pods[1])} {
		require.NoError(t, b.ports.Add(t.Context(), ports, near...))
	}
	gateway4, gateway6 := "10.244.1.1", "fd00:244:0:1::1"
	t.Run("from", func(t *testing.T) {
		for _, test := range []struct {
			name             string
			from             *testnet.Node
			to               netip.Addr
			keeping, another string
		}{
			{"outside", b.outside, b.node.V4, "pod0 " + outside4, "pod0 " + outside4},
			{"outside, v6", b.outside, b.node.V6, "pod0 " + outside6, "pod0 " + outside6},
			{"the node", b.node, b.node.V4, "pod0 " + b.node.V4.String(), "pod0 " + b.node.V4.String()},
			{"the node, v6", b.node, b.node.V6, "pod0 " + b.node.V6.String(), "pod0 " + b.node.V6.String()},
			{"the node, to localhost", b.node, netip.MustParseAddr("127.0.0.1"), "no answer", "pod0 " + gateway4},
			{"the pod itself", b.pods[0], b.node.V4, "no answer", "pod0 " + gateway4},
			{"the pod itself, v6", b.pods[0], b.node.V6, "no answer", "pod0 " + gateway6},
			{"the pod beside it", b.pods[1], b.node.V4, "no answer", "pod0 " + gateway4},
			{"the pod beside it, v6", b.pods[1], b.node.V6, "no answer", "pod0 " + gateway6},
		} {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel() // who waits for no answer waits for two seconds
				assert.Equal(t, test.keeping, ask(t, waitFor(test.keeping), test.from, "tcp", netip.AddrPortFrom(test.to, 8000)))
				assert.Equal(t, test.another, ask(t, waitFor(test.another), test.from, "tcp", netip.AddrPortFrom(test.to, 8001)))
			})
		}
	})
	for i, to := range b.node.Addrs() {
		require.Equal(t, "no answer", ask(t, silence, b.pods[0], "udp", netip.AddrPortFrom(to, 8002)))
		assert.Equal(t, b.pods[0].Addrs()[i], door.came(t, "udp"), "what was sent arrived, and says who sent it")
	}
}

// TestKeepSourceDriver: it is compared, changed, found missing and removed like anything else of a host port.
func TestKeepSourceDriver(t *testing.T) {
	b := newBridged(t)
	keeps := nat.PortSpec{Ports: keeping(8000, b.pods[0]), Near: near}
	hides := nat.PortSpec{Ports: both(8000, b.pods[0]), Near: near}
	for i, h := range keeps.Ports[:2] {
		h.HostIP, h.Port = b.node.Addrs()[i], 9000
		keeps.Ports = append(keeps.Ports, h)
		h.KeepSource = false
		hides.Ports = append(hides.Ports, h)
	}
	inSync := func(spec nat.PortSpec) {
		t.Helper()
		plan, err := b.ports.Plan(t.Context(), spec)
		require.NoError(t, err)
		assert.Empty(t, plan.String())
		missing, err := b.ports.Missing(t.Context(), spec.Ports)
		require.NoError(t, err)
		assert.Empty(t, missing)
	}
	require.NoError(t, b.ports.Add(t.Context(), keeps.Ports, near...))
	inSync(keeps)
	missing, err := b.ports.Missing(t.Context(), hides.Ports)
	require.NoError(t, err)
	assert.Equal(t, hides.Ports, missing)

	plan, err := b.ports.Apply(t.Context(), hides)
	require.NoError(t, err)
	assert.Len(t, plan, len(hides.Ports), plan.String())
	assert.Contains(t, plan.String(), "+ element inet podweft-hostports published4 { tcp . 8000 . 10.244.1.2 . 80 }\n")
	inSync(hides)
	missing, err = b.ports.Missing(t.Context(), keeps.Ports)
	require.NoError(t, err)
	assert.Equal(t, keeps.Ports, missing)
	_, err = b.ports.Apply(t.Context(), keeps)
	require.NoError(t, err)
	inSync(keeps)

	for _, opened := range []nat.PortSpec{keeps, hides} {
		for _, closed := range []nat.PortSpec{keeps, hides} {
			_, err := b.ports.Apply(t.Context(), opened)
			require.NoError(t, err)
			require.NoError(t, b.ports.Remove(t.Context(), closed.Ports))
			inSync(nat.PortSpec{Ports: []nat.HostPort{}, Near: near})
		}
	}
	tables, err := someone(t, b.node).Tables(t.Context(), nft.INet)
	require.NoError(t, err)
	assert.Len(t, tables, 1)
}
