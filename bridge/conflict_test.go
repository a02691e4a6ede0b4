package bridge_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/internal/nl"
)

// veth makes a pair whose peer is in the same node or another.
func (m *machine) veth(t testing.TB, name string, peerOf *machine, peer string) {
	t.Helper()
	ns, err := os.Open(peerOf.NetNS())
	require.NoError(t, err)
	defer ns.Close()
	m.change(t, func(b *nl.Batch) {
		b.AddVeth(nl.Link{Name: name, Alias: "a person's"}, nl.Link{Name: peer}, int(ns.Fd()))
	})
}

// nowhere is a default route that drops.
var nowhere = nl.Route{
	RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: netip.MustParsePrefix("0.0.0.0/0")}, Type: unix.RTN_BLACKHOLE, Protocol: unix.RTPROT_STATIC,
}

func defaultNowhere(t *testing.T, _ *host, pod *machine) {
	t.Helper()
	pod.change(t, func(b *nl.Batch) { b.AddRoute(nowhere) })
}

// What is in the way, or is not as asked for, is named and stays; so does everything else.
func TestConflicts(t *testing.T) {
	attached := func(t *testing.T, h *host, pod *machine) bridge.Attached {
		return h.attach(t, dual, port(dual, pod, 1))
	}
	tests := []struct {
		name   string
		before func(t *testing.T, h *host, pod *machine)
		change func(p *bridge.Port)
		want   string
	}{
		{"pod has eth0", func(t *testing.T, h *host, pod *machine) {
			h.veth(t, "other", pod, "eth0")
		}, nil, "link eth0, index 2, veth, without an alias, in "},
		{"host end's name is taken", func(t *testing.T, h *host, _ *machine) {
			h.veth(t, "mine", h.machine, "twin")
		}, func(p *bridge.Port) { p.HostName = "mine" }, `link mine, index 3, veth, alias "a person's"`},
		{"another port has the host end's name", func(t *testing.T, h *host, _ *machine) {
			p := port(dual, newMachine(t, "other"), 2)
			p.HostName = "mine"
			h.attach(t, dual, p)
		}, func(p *bridge.Port) { p.HostName = "mine" }, `alias "podweft:podweft/other/eth0"`},
		{"a person's bridge", func(t *testing.T, h *host, _ *machine) {
			h.change(t, func(b *nl.Batch) { b.CreateBridge(nl.Link{Name: "cni0"}) })
		}, nil, "link cni0, index 2, bridge, without an alias: delete it, or give the bridge another name"},
		{"another owner's bridge", func(t *testing.T, h *host, _ *machine) {
			other := h.attacher(t, bridge.Config{Owner: "red"})
			_, err := other.Attach(t.Context(), dual, port(dual, newMachine(t, "other"), 2))
			require.NoError(t, err)
		}, nil, `bridge, alias "podweft:red": delete it`},
		{"no bridge at all", func(t *testing.T, h *host, _ *machine) {
			h.veth(t, "cni0", h.machine, "twin")
		}, nil, `link cni0, index 3, veth, alias "a person's"`},
		{"another default route", defaultNowhere, nil, "route 0.0.0.0/0 via 10.244.1.1 dev eth0: another program's object is in the way: route 0.0.0.0/0"},
		{"attached elsewhere", func(t *testing.T, h *host, _ *machine) {
			attachedElsewhere := port(dual, newMachine(t, "pod"), 2)
			h.attach(t, dual, attachedElsewhere)
		}, nil, "the host end of this port in another namespace"},
		{"attached elsewhere, and pod has eth0", func(t *testing.T, h *host, pod *machine) {
			h.attach(t, dual, port(dual, newMachine(t, "pod"), 2))
			h.veth(t, "other", pod, "eth0")
		}, nil, "the host end of this port in another namespace"},
		{"attached with another address", func(t *testing.T, h *host, pod *machine) {
			attached(t, h, pod)
		}, func(p *bridge.Port) { p.Addresses = prefixes("10.244.1.9/24") }, "address 10.244.1.2/24 dev eth0"},
		{"attached with an address more", func(t *testing.T, h *host, pod *machine) {
			at := attached(t, h, pod)
			pod.change(t, func(b *nl.Batch) {
				b.AddAddress(nl.Address{Link: at.Pod.Index, Prefix: netip.MustParsePrefix("198.51.100.7/24")})
			})
		}, nil, "address 198.51.100.7/24 dev eth0"},
		{"attached with another MTU", func(t *testing.T, h *host, pod *machine) {
			attached(t, h, pod)
		}, func(p *bridge.Port) { p.MTU = 1300 }, "create link eth0 mtu 1300 address 9e:b3:20:fe:bc:f8: another program's object is in the way: link eth0 mtu 1450"},
		{"attached with another MAC", func(t *testing.T, h *host, pod *machine) {
			attached(t, h, pod)
		}, func(p *bridge.Port) { p.MAC = podweft.MAC{0x0e, 7} }, "create link eth0 mtu 1450 address 0e:07:00:00:00:00: "},
		{"attached with another route", func(t *testing.T, h *host, pod *machine) {
			attached(t, h, pod)
		}, func(p *bridge.Port) {
			p.Routes = []bridge.Route{{Prefix: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd00:244:0:1::9")}}
		}, "route ::/0 via fd00:244:0:1::1 dev eth0"},
		{"attached to another bridge", func(t *testing.T, h *host, pod *machine) {
			at := attached(t, h, pod)
			h.change(t, func(b *nl.Batch) { b.AddBridge(nl.Link{Name: "br9"}) })
			h.change(t, func(b *nl.Batch) { b.SetMaster(at.Host.Index, h.link(t, "br9").Index) })
		}, nil, "this port on another bridge"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, bridge.Config{})
			pod := newMachine(t, "pod")
			tt.before(t, h, pod)
			links, inPod := h.linkNames(t), pod.state(t)
			p := port(dual, pod, 1)
			if tt.change != nil {
				tt.change(&p)
			}
			_, err := h.pods.Attach(t.Context(), dual, p)
			require.ErrorIs(t, err, podweft.ErrConflict)
			t.Log(err)
			assert.ErrorContains(t, err, tt.want)
			assert.ErrorContains(t, err, "port pod/eth0: create ")
			var op *podweft.OpError
			assert.ErrorAs(t, err, &op)
			assert.Equal(t, inPod, pod.state(t))
			for _, l := range h.linkNames(t) {
				if l != "cni0" {
					assert.Contains(t, links, l, "left behind")
				}
			}
		})
	}
}

// A bridge that is not ours is not so much as brought up.
func TestForeignBridgeIsLeftAlone(t *testing.T) {
	h := newHost(t, bridge.Config{})
	h.change(t, func(b *nl.Batch) { b.CreateBridge(nl.Link{Name: "cni0", MTU: 1400}) })
	before := h.state(t)
	_, err := h.pods.Attach(t.Context(), dual, port(dual, newMachine(t, "pod"), 1))
	require.ErrorIs(t, err, podweft.ErrConflict)
	assert.Equal(t, before, h.state(t))
}

func TestFailedAttachLeavesNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name   string
		ctx    context.Context
		change func(h *host, p *bridge.Port)
		want   error
		text   string
	}{
		{"no namespace", t.Context(), func(_ *host, p *bridge.Port) { p.NetNS = "/run/netns/gone" },
			os.ErrNotExist, "port pod/eth0: open network namespace: open /run/netns/gone: no such file or directory"},
		{"a file", t.Context(), func(_ *host, p *bridge.Port) { p.NetNS = file }, unix.EINVAL, "enter " + file},
		{"the node's own namespace", t.Context(), func(h *host, p *bridge.Port) { p.NetNS = h.NetNS() },
			podweft.ErrInvalid, "is the node's own network namespace"},
		{"cancelled", cancelled, func(*host, *bridge.Port) {}, context.Canceled, "create link cni0 type bridge"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, bridge.Config{})
			pod := newMachine(t, "pod")
			p := port(dual, pod, 1)
			tt.change(h, &p)
			_, err := h.pods.Attach(tt.ctx, dual, p)
			require.ErrorIs(t, err, tt.want)
			assert.ErrorContains(t, err, tt.text)
			assert.Equal(t, []string{"lo"}, h.linkNames(t))
			assert.Equal(t, []string{"lo"}, pod.linkNames(t))
		})
	}
}

// The last thing that Attach writes fails; then what was in the way goes and it is tried again.
func TestAttachAfterFailure(t *testing.T) {
	h := newHost(t, bridge.Config{})
	pod := newMachine(t, "pod")
	defaultNowhere(t, h, pod)
	p := port(dual, pod, 1)
	_, err := h.pods.Attach(t.Context(), dual, p)
	require.ErrorIs(t, err, podweft.ErrConflict)
	assert.Equal(t, []string{"lo"}, pod.linkNames(t))
	assert.ElementsMatch(t, []string{"lo", "cni0"}, h.linkNames(t))

	pod.change(t, func(b *nl.Batch) { b.DeleteRoute(nowhere) })
	h.attach(t, dual, p)
	for _, g := range dual.Gateways {
		pod.ping(t, g.Addr())
	}
}
