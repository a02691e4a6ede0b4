package bridge_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/internal/nl"
)

// Somebody changes the bridge, or the node gets another lease; then a pod comes, and those that were there still reach
// each other and the gateway.
// (fe80::f4eb:a0ff:fe9c:bfa8 is of the MAC that is derived from 10.244.1.1.)
func TestBridgeConverges(t *testing.T) {
	moved := cni0("10.244.7.1/24", "fd00:244:0:7::1/64")
	tests := []struct {
		name   string
		change func(t *testing.T, h *host, br bridge.Link)
		want   bridge.Bridge
		log    []string // what is done about it, in order
	}{
		{"nothing", func(*testing.T, *host, bridge.Link) {}, dual, nil},
		{"address changed", func(t *testing.T, h *host, br bridge.Link) {
			h.change(t, func(b *nl.Batch) {
				b.DeleteAddress(nl.Address{Link: br.Index, Prefix: dual.Gateways[0]})
				b.AddAddress(nl.Address{Link: br.Index, Prefix: netip.MustParsePrefix("10.244.9.1/24")})
			})
		}, dual, []string{"address 10.244.9.1/24 dev cni0", "address 10.244.1.1/24 dev cni0"}},
		{"length changed", func(t *testing.T, h *host, br bridge.Link) {
			h.change(t, func(b *nl.Batch) {
				b.DeleteAddress(nl.Address{Link: br.Index, Prefix: dual.Gateways[1]})
				b.AddAddress(nl.Address{Link: br.Index, Prefix: netip.MustParsePrefix("fd00:244:0:1::1/56")})
			})
		}, dual, []string{"address fd00:244:0:1::1/56 dev cni0", "address fd00:244:0:1::1/64 dev cni0"}},
		{"addresses gone", func(t *testing.T, h *host, br bridge.Link) {
			h.change(t, func(b *nl.Batch) {
				for _, g := range dual.Gateways {
					b.DeleteAddress(nl.Address{Link: br.Index, Prefix: g})
				}
			})
		}, dual, []string{"address 10.244.1.1/24 dev cni0", "address fd00:244:0:1::1/64 dev cni0"}},
		{"down", func(t *testing.T, h *host, _ bridge.Link) {
			require.NoError(t, h.SetDown("cni0"))
		}, dual, []string{"link cni0 up alias podweft:podweft", "address fd00:244:0:1::1/64 dev cni0", "address fe80::f4eb:a0ff:fe9c:bfa8/64 dev cni0"}},
		{"MTU changed", func(t *testing.T, h *host, br bridge.Link) {
			h.change(t, func(b *nl.Batch) { b.SetMTU(br.Index, 1300) })
		}, dual, []string{"link cni0 mtu 1450"}},
		{"another lease", func(*testing.T, *host, bridge.Link) {}, moved, []string{
			"address 10.244.1.1/24 dev cni0", "address fd00:244:0:1::1/64 dev cni0",
			"address 10.244.7.1/24 dev cni0", "address fd00:244:0:7::1/64 dev cni0",
		}},
		{"one family less", func(*testing.T, *host, bridge.Link) {}, cni0("10.244.1.1/24"), []string{"address fd00:244:0:1::1/64 dev cni0"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			h := newHost(t, bridge.Config{Logger: changes(&log)})
			old := newMachine(t, "pod-1")
			at := h.attach(t, dual, port(dual, old, 1))
			tt.change(t, h, at.Bridge)
			log.Reset()

			pod, p := h.attachNew(t, tt.want, 2)
			assert.Equal(t, tt.log, logged(t, &log))
			assert.ElementsMatch(t, tt.want.Gateways, h.addresses(t, "cni0"))
			br := h.link(t, "cni0")
			assert.Equal(t, []any{at.Bridge.Index, at.Bridge.MAC, 1450, true}, []any{br.Index, br.MAC, br.MTU, br.Up})
			for i, g := range tt.want.Gateways {
				pod.ping(t, g.Addr())
				h.ping(t, p.Addresses[i].Addr())
				if tt.want.Gateways[i] == dual.Gateways[i] {
					old.ping(t, g.Addr())
					old.ping(t, p.Addresses[i].Addr())
				}
			}
		})
	}
}

// changes logs the objects of the bridge's changes, a line each.
func changes(to *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(to, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// A new bridge takes the MTU of its ports; ours keeps its own.
func TestNarrowPortLeavesTheBridgeAlone(t *testing.T) {
	for _, mtu := range []int{1450, 1500} { // 1500 is what a link has when nobody says
		h := newHost(t, bridge.Config{})
		b := dual
		b.MTU = mtu
		p := port(b, newMachine(t, "pod"), 1)
		p.MTU = 1300
		at := h.attach(t, b, p)
		assert.Equal(t, 1300, at.Pod.MTU)
		assert.Equal(t, mtu, h.link(t, "cni0").MTU)
	}
}

func TestBridgeTakesAnotherMAC(t *testing.T) {
	h := newHost(t, bridge.Config{})
	h.attachNew(t, dual, 1)
	b := dual
	b.MAC = podweft.MAC{0x0e, 9}
	pod, _ := h.attachNew(t, b, 2)
	assert.Equal(t, b.MAC, h.link(t, "cni0").MAC)
	for _, g := range b.Gateways {
		pod.ping(t, g.Addr())
	}
}

// Pods of two subnets are on one bridge, each with a gateway of its own.
func TestGatewayForEachSubnet(t *testing.T) {
	h := newHost(t, bridge.Config{})
	b := cni0("10.1.0.1/24", "10.2.0.1/24", "fd00:1::1/64", "fd00:2::1/64")
	for i, p := range [][]netip.Prefix{prefixes("10.1.0.2/24", "fd00:2::2/64"), prefixes("10.2.0.3/24", "fd00:1::3/64")} {
		pod := newMachine(t, fmt.Sprintf("pod-%d", i))
		h.attach(t, b, bridge.Port{Container: pod.Name, NetNS: pod.NetNS(), Addresses: p})
		assert.ElementsMatch(t, b.Gateways, h.addresses(t, "cni0"))
		for _, own := range p {
			pod.ping(t, own.Masked().Addr().Next())
			h.ping(t, own.Addr())
		}
	}
}

// Two owners on one node, each with a bridge of its own.
func TestOwnersLiveSideBySide(t *testing.T) {
	h := newHost(t, bridge.Config{Owner: "blue"})
	red := h.attacher(t, bridge.Config{Owner: "red"})
	bluePod, _ := h.attachNew(t, cni0("10.1.0.1/24"), 1)
	b := cni0("10.2.0.1/24")
	b.Name = "cni1"
	redPod := newMachine(t, "pod-1") // of the same name, too
	_, err := red.Attach(t.Context(), b, port(b, redPod, 1))
	require.NoError(t, err)
	redPod.ping(t, b.Gateways[0].Addr())
	require.NoError(t, red.Teardown(t.Context()))
	assert.Equal(t, []string{"lo"}, redPod.linkNames(t))
	bluePod.ping(t, netip.MustParseAddr("10.1.0.1"))
}

// logged returns the objects of the changes to the bridge, in order.
func logged(t *testing.T, log *bytes.Buffer) (objects []string) {
	t.Helper()
	for line := range strings.Lines(log.String()) {
		_, object, found := strings.Cut(strings.TrimSpace(line), ` object="`)
		if found && strings.HasPrefix(line, `msg="bridge converged"`) {
			objects = append(objects, strings.TrimSuffix(object, `"`))
		}
	}
	return objects
}
