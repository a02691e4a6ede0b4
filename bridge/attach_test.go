package bridge_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/testnet"
)

// Each ping is one request, sent as soon as Attach has returned.
func TestAttachMakesPacketsFlow(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			h := newHost(t, bridge.Config{})
			a, pa := h.attachNew(t, f.bridge, 1)
			for _, g := range f.bridge.Gateways {
				a.ping(t, g.Addr())
			}
			b, pb := h.attachNew(t, f.bridge, 2)
			for i := range f.bridge.Gateways {
				b.ping(t, pa.Addresses[i].Addr())
				a.ping(t, pb.Addresses[i].Addr())
				h.ping(t, pb.Addresses[i].Addr())
			}
		})
	}
}

func TestAttachSaysWhatIs(t *testing.T) {
	h := newHost(t, bridge.Config{Owner: "blue"})
	pod := newMachine(t, "pod")
	p := port(dual, pod, 1)
	p.Name, p.MTU = "net1", 1400
	at := h.attach(t, dual, p)

	br, end, peer := h.link(t, "cni0"), h.link(t, at.Host.Name), pod.link(t, "net1")
	assert.Equal(t, bridge.Attached{
		Bridge: bridge.Link{Index: br.Index, Name: "cni0", MAC: br.MAC, MTU: 1450},
		Host:   bridge.Link{Index: end.Index, Name: at.Host.Name, MAC: end.MAC, MTU: 1400},
		Pod:    bridge.Link{Index: peer.Index, Name: "net1", MAC: peer.MAC, MTU: 1400},
	}, at)
	assert.Equal(t, "podweft:blue", br.Alias)
	assert.Equal(t, "podweft:blue/pod/net1", end.Alias)
	assert.Equal(t, br.Index, end.Master)
	assert.Equal(t, p.Addresses, pod.addresses(t, "net1"))
	assert.Equal(t, dual.Gateways, h.addresses(t, "cni0"))
	for _, l := range []bridge.Link{at.Bridge, at.Host, at.Pod} {
		assert.True(t, l.MAC.IsUnicast() && l.MAC[0]&0x02 != 0, "%s is locally administered", l.MAC)
	}

	all, err := h.nl.Addresses(0)
	require.NoError(t, err)
	for _, a := range all {
		if a.Prefix.Addr().IsLinkLocalUnicast() {
			assert.Equal(t, nl.Address{Link: br.Index, Prefix: netip.PrefixFrom(br.MAC.LinkLocal(), 64), LinkScope: true}, a)
		}
	}
	assert.Equal(t, "0\n", h.sysctl(t, "net/ipv6/conf/cni0/accept_ra"))
}

func (m *machine) sysctl(t testing.TB, key string) (value string) {
	t.Helper()
	require.NoError(t, m.Do(func() error {
		b, err := os.ReadFile("/proc/sys/" + key)
		value = string(b)
		return err
	}))
	return value
}

func (m *machine) setSysctl(t testing.TB, key, value string) {
	t.Helper()
	require.NoError(t, testnet.Sysctls())
	require.NoError(t, m.Do(func() error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0) }))
}

// A packet from beyond the node: to ask for the pod's MAC, the node needs an address of its own on the bridge that serves
// for that, which for IPv6 the gateway is not.
func TestNodeForwardsToPods(t *testing.T) {
	h := newHost(t, bridge.Config{})
	h.setSysctl(t, "net/ipv4/ip_forward", "1")
	h.setSysctl(t, "net/ipv6/conf/all/forwarding", "1")
	world := newMachine(t, "world")
	h.veth(t, "uplink", world, "eth0")
	uplink, there := h.link(t, "uplink").Index, world.link(t, "eth0").Index
	world.change(t, func(b *nl.Batch) { b.SetUp(there, true) })
	for i, ends := range [][]netip.Prefix{prefixes("192.0.2.1/24", "192.0.2.2/24"), prefixes("2001:db8::1/64", "2001:db8::2/64")} {
		h.change(t, func(b *nl.Batch) { b.AddAddress(nl.Address{Link: uplink, Prefix: ends[0]}) })
		world.change(t, func(b *nl.Batch) {
			b.AddAddress(nl.Address{Link: there, Prefix: ends[1]})
			b.AddRoute(nl.Route{
				RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: dual.Gateways[i].Masked()}, Gateway: ends[0].Addr(), Link: there,
			})
		})
		world.reaches(t, ends[0].Addr())
	}

	pod := newMachine(t, "pod")
	p := port(dual, pod, 1)
	h.attach(t, dual, p)
	for _, a := range p.Addresses {
		world.ping(t, a.Addr()) // the pod has sent nothing that the node could have learned its MAC from
	}
}

func TestAttachAgainChangesNothing(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			h := newHost(t, bridge.Config{})
			pod := newMachine(t, "pod")
			p := port(f.bridge, pod, 1)
			p.Hairpin = true
			at := h.attach(t, f.bridge, p)
			inNode, inPod := h.state(t), pod.state(t)

			again, err := h.attacher(t, bridge.Config{}).Attach(t.Context(), f.bridge, p)
			require.NoError(t, err)
			assert.Equal(t, at, again)
			assert.Equal(t, inNode, h.state(t))
			assert.Equal(t, inPod, pod.state(t))
		})
	}
}

// What an Attach that was killed did not come to, or what somebody took away.
func TestAttachAgainCompletes(t *testing.T) {
	eth0 := func(t *testing.T, pod *machine) nl.Link { return pod.link(t, "eth0").Link }
	tests := []struct {
		name string
		take func(t *testing.T, h *host, pod *machine, at bridge.Attached)
	}{
		{"pod's end down", func(t *testing.T, _ *host, pod *machine, _ bridge.Attached) {
			require.NoError(t, pod.SetDown("eth0"))
		}},
		{"lo down", func(t *testing.T, _ *host, pod *machine, _ bridge.Attached) {
			require.NoError(t, pod.SetDown("lo"))
		}},
		{"IPv4 address", func(t *testing.T, _ *host, pod *machine, at bridge.Attached) {
			pod.change(t, func(b *nl.Batch) {
				b.DeleteAddress(nl.Address{Link: at.Pod.Index, Prefix: netip.MustParsePrefix("10.244.1.2/24")})
			})
		}},
		{"IPv6 address", func(t *testing.T, _ *host, pod *machine, at bridge.Attached) {
			pod.change(t, func(b *nl.Batch) {
				b.DeleteAddress(nl.Address{Link: at.Pod.Index, Prefix: netip.MustParsePrefix("fd00:244:0:1::2/64")})
			})
		}},
		{"default routes", func(t *testing.T, _ *host, pod *machine, _ bridge.Attached) {
			pod.change(t, func(b *nl.Batch) {
				for _, p := range prefixes("0.0.0.0/0", "::/0") {
					b.DeleteRoute(nl.Route{RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: p}, Protocol: unix.RTPROT_STATIC})
				}
			})
		}},
		{"neighbours", func(t *testing.T, _ *host, pod *machine, at bridge.Attached) {
			pod.change(t, func(b *nl.Batch) {
				for _, g := range dual.Gateways {
					b.DeleteNeighbor(nl.NeighborKey{Link: at.Pod.Index, Addr: g.Addr()})
				}
			})
		}},
		{"host end down", func(t *testing.T, h *host, _ *machine, at bridge.Attached) {
			require.NoError(t, h.SetDown(at.Host.Name))
		}},
		{"host end off the bridge", func(t *testing.T, h *host, _ *machine, at bridge.Attached) {
			h.change(t, func(b *nl.Batch) { b.SetMaster(at.Host.Index, 0) })
		}},
		{"hairpin", func(t *testing.T, h *host, _ *machine, at bridge.Attached) {
			h.change(t, func(b *nl.Batch) { b.SetHairpin(at.Host.Name, false) })
		}},
		{"marks, which are set after creation", func(t *testing.T, h *host, _ *machine, at bridge.Attached) {
			h.change(t, func(b *nl.Batch) {
				b.Mark(nl.Link{Name: at.Host.Name})
				b.Mark(nl.Link{Name: at.Bridge.Name})
			})
		}},
		{"bridge", func(t *testing.T, h *host, _ *machine, at bridge.Attached) {
			h.change(t, func(b *nl.Batch) { b.DeleteLink(at.Bridge.Index) })
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, bridge.Config{})
			pod := newMachine(t, "pod")
			p := port(dual, pod, 1)
			p.Hairpin = true
			at := h.attach(t, dual, p)
			inPod := pod.state(t)
			tt.take(t, h, pod, at)

			again := h.attach(t, dual, p)
			at.Bridge.Index = again.Bridge.Index // may be a new one
			assert.Equal(t, at, again)
			assert.Equal(t, inPod, pod.state(t))
			end := h.link(t, at.Host.Name)
			assert.Equal(t, []any{"podweft:podweft/pod/eth0", true, again.Bridge.Index, true}, []any{end.Alias, end.Up, end.Master, end.Hairpin})
			assert.Equal(t, at.Pod.Index, eth0(t, pod).Index)
			for i, g := range dual.Gateways {
				pod.ping(t, g.Addr())
				h.ping(t, p.Addresses[i].Addr())
			}
		})
	}
}

func TestDerivedNamesAndMACsAreStable(t *testing.T) {
	h := newHost(t, bridge.Config{})
	pod := newMachine(t, "pod")
	first := h.attach(t, dual, port(dual, pod, 1))
	require.NoError(t, h.pods.Teardown(t.Context()))

	same := newMachine(t, "pod")
	again := h.attach(t, dual, port(dual, same, 1))
	assert.Equal(t, first.Bridge.MAC, again.Bridge.MAC)
	assert.Equal(t, first.Host.Name, again.Host.Name)
	assert.Equal(t, first.Host.MAC, again.Host.MAC)
	assert.Equal(t, first.Pod.MAC, again.Pod.MAC)
	require.NoError(t, h.pods.Detach(t.Context(), bridge.Port{Container: "pod"}))

	heir := newMachine(t, "heir")
	inherited := h.attach(t, dual, port(dual, heir, 1))
	assert.Equal(t, first.Pod.MAC, inherited.Pod.MAC, "nobody's neighbour entry for the address is stale")
	assert.NotEqual(t, first.Host.Name, inherited.Host.Name)

	second := port(dual, heir, 2)
	second.Name = "eth1"
	second.Routes = []bridge.Route{}
	other := h.attach(t, dual, second)
	assert.NotEqual(t, inherited.Host.Name, other.Host.Name)
	assert.NotEqual(t, inherited.Pod.MAC, other.Pod.MAC)
}

func TestAttachTakesWhatIsGiven(t *testing.T) {
	h := newHost(t, bridge.Config{})
	pod := newMachine(t, "pod")
	b := cni0("10.244.1.1/24")
	b.Name, b.MAC = "br.pods", podweft.MAC{0x0e, 1}
	p := port(b, pod, 1)
	p.HostName, p.Name, p.MAC = "pod.7", "pod0", podweft.MAC{0x0e, 2}
	p.Routes = []bridge.Route{
		{Prefix: netip.MustParsePrefix("10.244.0.0/16")},
		{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Via: netip.MustParseAddr("10.244.1.7")},
	}
	at := h.attach(t, b, p)
	assert.Equal(t, bridge.Link{Index: at.Bridge.Index, Name: "br.pods", MAC: b.MAC, MTU: 1450}, at.Bridge)
	assert.Equal(t, "pod.7", at.Host.Name)
	assert.Equal(t, bridge.Link{Index: at.Pod.Index, Name: "pod0", MAC: p.MAC, MTU: 1450}, at.Pod)
	via := map[string]string{}
	require.NoError(t, pod.nl.Routes(t.Context(), func() { clear(via) }, func(r nl.Route) {
		if r.Protocol == unix.RTPROT_STATIC {
			via[r.Prefix.String()] = r.Gateway.String()
		}
	}))
	assert.Equal(t, map[string]string{"10.244.0.0/16": "10.244.1.1", "192.0.2.0/24": "10.244.1.7"}, via)
	require.NoError(t, h.pods.Detach(t.Context(), p))
	assert.NotContains(t, h.linkNames(t), "pod.7")
}

// A port without addresses is a cable: what runs in the pod configures it.
func TestAttachWithoutAddresses(t *testing.T) {
	h := newHost(t, bridge.Config{})
	pod := newMachine(t, "pod")
	at := h.attach(t, bridge.Bridge{}, bridge.Port{Container: "pod", NetNS: pod.NetNS()})
	assert.Equal(t, 1500, at.Pod.MTU)
	assert.Empty(t, pod.addresses(t, "eth0"))
	assert.True(t, pod.link(t, "eth0").Up)
}

// With hairpin, a frame that is for everybody also comes back to the pod that sent it.
func TestHairpin(t *testing.T) {
	for _, hairpin := range []bool{false, true} {
		t.Run(fmt.Sprint(hairpin), func(t *testing.T) {
			h := newHost(t, bridge.Config{})
			pod := newMachine(t, "pod")
			p := port(dual, pod, 1)
			p.Hairpin = hairpin
			at := h.attach(t, dual, p)
			assert.Equal(t, hairpin, h.link(t, at.Host.Name).Hairpin)

			frames, err := pod.Capture("eth0")
			require.NoError(t, err)
			defer frames.Close()
			const nobody = "10.244.1.200" // the pod asks everybody for it
			sent, reflected := false, false
			for end := time.Now().Add(patience); !sent || hairpin && !reflected; {
				require.True(t, time.Now().Before(end), "sent: %t", sent)
				ctx, cancel := shortly(t)
				_, err = pod.Ping(ctx, netip.MustParseAddr(nobody))
				cancel()
				require.Error(t, err)
				_, err = frames.Count(func(f testnet.Packet) bool {
					whose, is := whoHas(f.Frame)
					if is && whose == netip.MustParseAddr(nobody) && podweft.MAC(f.Frame[6:12]) == at.Pod.MAC {
						sent, reflected = sent || f.Sent, reflected || !f.Sent
					}
					return is
				})
				require.NoError(t, err)
			}
			assert.Equal(t, hairpin, reflected)
		})
	}
}

// Some container runtimes turn IPv6 off for new links, and some nodes do.
func TestAttachWhereIPv6IsOff(t *testing.T) {
	h := newHost(t, bridge.Config{})
	pod := newMachine(t, "pod")
	for _, m := range []*machine{h.machine, pod} {
		m.setSysctl(t, "net/ipv6/conf/all/disable_ipv6", "1")
		m.setSysctl(t, "net/ipv6/conf/default/disable_ipv6", "1")
	}
	p := port(dual, pod, 1)
	h.attach(t, dual, p)
	for i, g := range dual.Gateways {
		pod.ping(t, g.Addr())
		h.ping(t, p.Addresses[i].Addr())
	}
	assert.Equal(t, "0\n", pod.sysctl(t, "net/ipv6/conf/eth0/disable_ipv6"))
	assert.Equal(t, "1\n", pod.sysctl(t, "net/ipv6/conf/default/disable_ipv6"))
}

// The kernel gives no link with such an MTU IPv6.
func TestAttachBelowTheMTUOfIPv6(t *testing.T) {
	h := newHost(t, bridge.Config{})
	b := cni0("10.244.1.1/24")
	b.MTU = 1000
	pod, _ := h.attachNew(t, b, 1)
	pod.ping(t, b.Gateways[0].Addr())
}

// Several attachers stand for several processes. Nothing is there when they begin.
func TestAttachInParallel(t *testing.T) {
	const pods = 16
	h := newHost(t, bridge.Config{})
	attachers := []*bridge.Attacher{h.pods, h.attacher(t, bridge.Config{}), h.attacher(t, bridge.Config{})}
	machines := make([]*machine, pods)
	for i := range machines {
		machines[i] = newMachine(t, fmt.Sprintf("pod-%d", i+1))
	}
	errs := make([]error, pods)
	var all sync.WaitGroup
	for i, pod := range machines {
		all.Go(func() {
			p := port(dual, pod, i+1)
			if _, errs[i] = attachers[i%len(attachers)].Attach(t.Context(), dual, p); errs[i] == nil {
				errs[i] = pingOnce(t.Context(), pod, dual.Gateways[0].Addr(), dual.Gateways[1].Addr())
			}
		})
	}
	all.Wait()
	for i, err := range errs {
		assert.NoError(t, err, "pod %d", i+1)
	}
	assert.Len(t, h.linkNames(t), 1+1+pods, "lo, the bridge, the ports")
	assert.Equal(t, dual.Gateways, h.addresses(t, "cni0"))
}

// Nobody should, but a runtime that retries may: whoever makes the pair, all of them end with the same port.
func TestAttachOnePortInParallel(t *testing.T) {
	for range 8 {
		h := newHost(t, bridge.Config{})
		p := port(dual, newMachine(t, "pod"), 1)
		var ports [4]bridge.Attached
		var errs [4]error
		var all sync.WaitGroup
		for i := range ports {
			a := h.attacher(t, bridge.Config{})
			all.Go(func() { ports[i], errs[i] = a.Attach(t.Context(), dual, p) })
		}
		all.Wait()
		for i := range ports {
			require.NoError(t, errs[i])
			assert.Equal(t, ports[0], ports[i])
		}
	}
}

func pingOnce(ctx context.Context, from *machine, to ...netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, a := range to {
		if _, err := from.Ping(ctx, a); err != nil {
			return err
		}
	}
	return nil
}
