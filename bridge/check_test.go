package bridge_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/internal/nl"
)

func TestCheck(t *testing.T) {
	tests := []struct {
		name string
		deed func(t *testing.T, h *host, pod *machine, at bridge.Attached)
		want string // empty: nothing is wrong
	}{
		{"nothing happened", func(*testing.T, *host, *machine, bridge.Attached) {}, ""},
		{"another plugin gave the pod another MTU", func(t *testing.T, _ *host, pod *machine, at bridge.Attached) {
			pod.change(t, func(b *nl.Batch) { b.SetMTU(at.Pod.Index, 1400) })
		}, ""},
		{"port taken out of the bridge", func(t *testing.T, h *host, _ *machine, at bridge.Attached) {
			h.change(t, func(b *nl.Batch) { b.SetMaster(at.Host.Index, 0) })
		}, "master cni0: is missing"},
		{"port down", func(t *testing.T, h *host, _ *machine, at bridge.Attached) {
			h.change(t, func(b *nl.Batch) { b.SetUp(at.Host.Index, false) })
		}, "up: is missing"},
		{"hairpin off", func(t *testing.T, h *host, _ *machine, at bridge.Attached) {
			h.change(t, func(b *nl.Batch) { b.SetHairpin(at.Host.Name, false) })
		}, "hairpin: is missing"},
		{"isolation off", func(t *testing.T, h *host, _ *machine, at bridge.Attached) {
			h.change(t, func(b *nl.Batch) { b.SetIsolated(at.Host.Name, false) })
		}, "isolated: is missing"},
		{"pod's address gone", func(t *testing.T, _ *host, pod *machine, at bridge.Attached) {
			pod.change(t, func(b *nl.Batch) {
				b.DeleteAddress(nl.Address{Link: at.Pod.Index, Prefix: netip.MustParsePrefix("10.244.1.2/24")})
			})
		}, "check address 10.244.1.2/24 dev eth0: is missing"},
		{"pod's link down, with its routes", func(t *testing.T, _ *host, pod *machine, at bridge.Attached) {
			pod.change(t, func(b *nl.Batch) { b.SetUp(at.Pod.Index, false) })
		}, "check route 0.0.0.0/0 via 10.244.1.1 dev eth0: is missing"},
		{"port gone", func(t *testing.T, h *host, _ *machine, at bridge.Attached) {
			h.change(t, func(b *nl.Batch) { b.DeleteLink(at.Host.Index) })
		}, "is missing"},
		{"bridge gone", func(t *testing.T, h *host, _ *machine, at bridge.Attached) {
			h.change(t, func(b *nl.Batch) { b.DeleteLink(at.Bridge.Index) })
		}, "check link cni0: is missing"},
		{"gateway gone", func(t *testing.T, h *host, _ *machine, at bridge.Attached) {
			h.change(t, func(b *nl.Batch) {
				b.DeleteAddress(nl.Address{Link: at.Bridge.Index, Prefix: netip.MustParsePrefix("10.244.1.1/24")})
			})
		}, "check address 10.244.1.1/24 dev cni0: is missing"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, bridge.Config{})
			pod := newMachine(t, "pod")
			p := port(dual, pod, 1)
			p.Hairpin, p.Isolated = true, true
			at := h.attach(t, dual, p)
			test.deed(t, h, pod, at)
			err := h.pods.Check(t.Context(), dual, p)
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, bridge.ErrMissing)
			assert.ErrorContains(t, err, test.want)
		})
	}
}

func TestIsolatedPodsReachTheNodeAlone(t *testing.T) {
	h := newHost(t, bridge.Config{})
	var pods []*machine
	for i := range 3 {
		pod := newMachine(t, []string{"a", "b", "open"}[i])
		p := port(dual, pod, i+1)
		p.Isolated = i < 2
		h.attach(t, dual, p)
		pods = append(pods, pod)
	}
	a, b := pods[0], netip.MustParseAddr("10.244.1.3")
	a.ping(t, netip.MustParseAddr("10.244.1.1"))
	a.ping(t, netip.MustParseAddr("10.244.1.4"))
	ctx, cancel := shortly(t)
	defer cancel()
	_, err := a.Ping(ctx, b)
	assert.Error(t, err, "another isolated port")
}

// TestAdopt takes over what the bridge plugin has made: no alias, MACs at random, the bridge's from its ports.
func TestAdopt(t *testing.T) {
	h := newHost(t, bridge.Config{})
	old := newMachine(t, "old")
	h.change(t, func(b *nl.Batch) { b.CreateBridge(nl.Link{Name: "cni0"}) })
	br := h.link(t, "cni0")
	inside := old.open(t)
	h.change(t, func(b *nl.Batch) {
		b.SetUp(br.Index, true)
		b.AddAddress(nl.Address{Link: br.Index, Prefix: netip.MustParsePrefix("10.244.1.1/24")})
		b.CreateVeth(nl.Link{Name: "veth12345678", Master: br.Index}, nl.Link{Name: "eth0"}, int(inside.Fd()))
	})
	end := h.link(t, "veth12345678")
	h.change(t, func(b *nl.Batch) { b.SetUp(end.Index, true) })
	old.change(t, func(b *nl.Batch) {
		b.SetUp(end.Pair, true)
		b.AddAddress(nl.Address{Link: end.Pair, Prefix: netip.MustParsePrefix("10.244.1.9/24")})
	})
	before := h.link(t, "cni0").MAC
	fresh := newMachine(t, "new")
	p := port(dual, fresh, 1)

	_, err := h.pods.Attach(t.Context(), dual, p)
	require.ErrorIs(t, err, podweft.ErrConflict, "not unless it is asked for")
	adopting := h.attacher(t, bridge.Config{Adopt: true})
	_, err = adopting.Attach(t.Context(), dual, p)
	require.NoError(t, err)
	after := h.link(t, "cni0")
	assert.Equal(t, before, after.MAC, "pods that run know it by this")
	assert.Equal(t, "podweft:podweft", after.Alias)
	fresh.ping(t, netip.MustParseAddr("10.244.1.9"))
	old.ping(t, netip.MustParseAddr("10.244.1.2"))

	require.NoError(t, h.pods.Detach(t.Context(), bridge.Port{Container: "old", NetNS: old.NetNS()}))
	assert.Contains(t, h.linkNames(t), "veth12345678", "not without Adopt")
	require.NoError(t, adopting.Detach(t.Context(), bridge.Port{Container: "old", NetNS: old.NetNS()}))
	assert.NotContains(t, h.linkNames(t), "veth12345678")
	assert.Equal(t, before, h.link(t, "cni0").MAC, "a port less changes nothing")
	require.NoError(t, adopting.Detach(t.Context(), bridge.Port{Container: "old", NetNS: old.NetNS()}), "twice")
	require.NoError(t, adopting.Detach(t.Context(), bridge.Port{Container: "old", NetNS: "/nowhere"}), "with the pod gone")
}

// TestCheckFindsRoutesThatWereMoved: the plugins sbr and vrf give an interface a routing table of its own.
func TestCheckFindsRoutesThatWereMoved(t *testing.T) {
	h := newHost(t, bridge.Config{})
	pod, p := h.attachNew(t, dual, 1)
	for i, to := range prefixes("0.0.0.0/0", "::/0") {
		r := nl.Route{
			RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: to}, Protocol: unix.RTPROT_STATIC,
			Gateway: dual.Gateways[i].Addr(), Link: pod.link(t, "eth0").Index,
		}
		moved := r
		moved.Table = 100
		pod.change(t, func(b *nl.Batch) {
			b.AddRoute(moved)
			b.DeleteRoute(r)
		})
	}
	require.NoError(t, h.pods.Check(t.Context(), dual, p))
}

// TestAdoptLeavesOtherBridges: one that joins more than pods is somebody's.
func TestAdoptLeavesOtherBridges(t *testing.T) {
	h := newHost(t, bridge.Config{Adopt: true})
	h.change(t, func(b *nl.Batch) {
		b.CreateBridge(nl.Link{Name: "cni0"})
		b.AddVXLAN(nl.Link{Name: "uplink", VXLAN: nl.VXLAN{VNI: 7, Port: 4789, Local: netip.MustParseAddr("192.0.2.1")}})
	})
	h.change(t, func(b *nl.Batch) { b.SetMaster(h.link(t, "uplink").Index, h.link(t, "cni0").Index) })
	before := h.state(t)
	_, err := h.pods.Attach(t.Context(), dual, port(dual, newMachine(t, "pod"), 1))
	require.ErrorIs(t, err, podweft.ErrConflict)
	assert.Equal(t, before, h.state(t))
}

func TestDetachAll(t *testing.T) {
	h := newHost(t, bridge.Config{})
	other := h.attacher(t, bridge.Config{Owner: "other"})
	want := []bridge.Port{}
	for i := range 5 {
		_, p := h.attachNew(t, dual, i+1)
		want = append(want, p)
	}
	have, err := h.pods.Ports(t.Context())
	require.NoError(t, err)
	var ids []string
	for _, p := range have {
		ids = append(ids, p.Container+"/"+p.Name)
	}
	assert.ElementsMatch(t, []string{"pod-1/eth0", "pod-2/eth0", "pod-3/eth0", "pod-4/eth0", "pod-5/eth0"}, ids)
	none, err := other.Ports(t.Context())
	require.NoError(t, err)
	assert.Empty(t, none, "of another owner")
	require.NoError(t, h.pods.DetachAll(t.Context(), append(want[1:], bridge.Port{Container: "never"})))
	have, err = h.pods.Ports(t.Context())
	require.NoError(t, err)
	require.Len(t, have, 1)
	assert.Equal(t, want[0].Container, have[0].Container)
}
