package ptp_test

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
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/ptp"
	"github.com/podweft/podweft/testnet"
)

// Each ping is one request, sent as soon as Attach has returned.
func TestAttachMakesPacketsFlow(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			h := newHost(t, ptp.Config{})
			a, pa := h.attachNew(t, f, 2)
			b, pb := h.attachNew(t, f, 3)
			for i := range pa.Addresses {
				h.ping(t, pb.Addresses[i])
				a.ping(t, pb.Addresses[i])
				b.ping(t, pa.Addresses[i])
			}
		})
	}
}

// What a person sees who looks.
func TestAttachSaysWhatIs(t *testing.T) {
	h := newHost(t, ptp.Config{Owner: "blue"})
	pod := newMachine(t, "pod")
	p := port(dual, pod, 2)
	p.Name, p.MTU, p.HostName, p.MAC = "net1", 1400, "cali7", podweft.MAC{0x0e, 2}
	at := h.attach(t, p)
	end, peer := h.link(t, "cali7"), pod.link(t, "net1")
	assert.Equal(t, ptp.Attached{
		Host: ptp.Link{Index: end.Index, Name: "cali7", MAC: end.MAC, MTU: 1400},
		Pod:  ptp.Link{Index: peer.Index, Name: "net1", MAC: p.MAC, MTU: 1400},
	}, at)
	assert.Equal(t, "podweft:blue/pod/net1", end.Alias)
	assert.Equal(t, []string{"route 10.244.0.2/32 dev cali7", "route fd00:244::2/128 dev cali7 metric 1024"}, h.routes(t))
	assert.Equal(t, []string{
		"route 0.0.0.0/0 via 169.254.1.1 dev net1", "route 169.254.1.1/32 dev net1",
		"route ::/0 via fe80::1 dev net1 metric 1024", "route fd00:244::2/128 dev net1 metric 256",
	}, pod.routes(t))
	assert.Equal(t, "1\n", h.sysctl(t, "net/ipv4/conf/cali7/proxy_arp"))
	assert.Equal(t, "1\n", h.sysctl(t, "net/ipv4/conf/cali7/rp_filter"))
}

func TestAttachWithRoutesOfItsOwn(t *testing.T) {
	h := newHost(t, ptp.Config{})
	pod := newMachine(t, "pod")
	p := port(dual, pod, 2)
	p.Routes = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/64")}
	h.attach(t, p)
	_, pb := h.attachNew(t, dual, 3)
	for _, a := range pb.Addresses {
		pod.ping(t, a)
	}
	assert.Equal(t, []string{
		"route 10.244.0.0/16 via 169.254.1.1 dev eth0", "route 169.254.1.1/32 dev eth0",
		"route fd00:244::/64 via fe80::1 dev eth0 metric 1024", "route fd00:244::2/128 dev eth0 metric 256",
	}, pod.routes(t))
}

// The pod gives itself another's address and sends from it: the node drops that.
func TestPodsCannotPoseAsOneAnother(t *testing.T) {
	h := newHost(t, ptp.Config{})
	h.setSysctl(t, "net/ipv4/conf/all/rp_filter", "0") // which machines have as they like
	thief, p := h.attachNew(t, dual, 2)
	victim, pv := h.attachNew(t, dual, 3)
	target, pt := h.attachNew(t, dual, 4)
	thief.change(t, func(b *nl.Batch) {
		b.AddAddress(nl.Address{Link: 1, Prefix: netip.PrefixFrom(pv.Addresses[0], 32)})
	})
	frames, err := target.Capture("eth0")
	require.NoError(t, err)
	defer frames.Close()
	pose := func() {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := thief.Echo(ctx, pt.Addresses[0], testnet.Echo{From: pv.Addresses[0]})
		require.Error(t, err) // an answer is the victim's
	}
	ipv4 := func(p testnet.Packet) bool {
		return !p.Sent && len(p.Frame) > 14 && p.Frame[12] == 8 && p.Frame[13] == 0
	}
	pose()
	victim.ping(t, pt.Addresses[0]) // so much later, what the thief sent would have come
	n, err := frames.Count(ipv4)
	require.NoError(t, err)
	assert.Equal(t, 1, n, "IPv4 packets: the victim's alone")

	at := h.attach(t, p)
	h.setSysctl(t, "net/ipv4/conf/"+at.Host.Name+"/rp_filter", "0")
	posed := 0
	for end := time.Now().Add(patience); posed == 0 && time.Now().Before(end); {
		pose()
		posed, err = frames.Count(ipv4)
		require.NoError(t, err)
	}
	assert.NotZero(t, posed, "nothing else had kept it back")
}

// With its neighbour entry taken away, a pod asks, and the node's end answers for whatever it routes to.
func TestGatewayAnswers(t *testing.T) {
	h := newHost(t, ptp.Config{})
	pod, _ := h.attachNew(t, dual, 2)
	_, pb := h.attachNew(t, dual, 3)
	lo := h.link(t, "lo").Index
	h.change(t, func(b *nl.Batch) { // a way out, as nodes have; the kernel answers for what it routes elsewhere
		b.SetUp(lo, true)
		b.AddRoute(nl.Route{RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: netip.MustParsePrefix("0.0.0.0/0")}, Link: lo})
	})
	eth0 := pod.link(t, "eth0").Index
	pod.change(t, func(b *nl.Batch) {
		for _, g := range []netip.Addr{ptp.Gateway4, ptp.Gateway6} {
			b.DeleteNeighbor(nl.NeighborKey{Link: eth0, Addr: g})
		}
	})
	for _, a := range pb.Addresses {
		pod.ping(t, a)
	}
}

func TestAttachAgainChangesNothing(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			h := newHost(t, ptp.Config{})
			pod := newMachine(t, "pod")
			p := port(f, pod, 2)
			at := h.attach(t, p)
			inNode, inPod := h.state(t), pod.state(t)
			again, err := h.attacher(t, ptp.Config{}).Attach(t.Context(), p)
			require.NoError(t, err)
			assert.Equal(t, at, again)
			assert.Equal(t, inNode, h.state(t))
			assert.Equal(t, inPod, pod.state(t))
		})
	}
}

// damages are what can befall a port; link is the node's end.
var damages = []struct {
	name string
	do   func(t *testing.T, h *host, at ptp.Attached, p ptp.Port)
}{
	{"end down", func(t *testing.T, h *host, at ptp.Attached, _ ptp.Port) { require.NoError(t, h.SetDown(at.Host.Name)) }},
	{"routes", func(t *testing.T, h *host, _ ptp.Attached, p ptp.Port) {
		for _, a := range p.Addresses {
			removeRoute(t, h, netip.PrefixFrom(a, a.BitLen()))
		}
	}},
	{"neighbours", func(t *testing.T, h *host, at ptp.Attached, p ptp.Port) {
		h.change(t, func(b *nl.Batch) {
			for _, a := range p.Addresses {
				b.DeleteNeighbor(nl.NeighborKey{Link: at.Host.Index, Addr: a})
			}
		})
	}},
	{"a wrong neighbour", func(t *testing.T, h *host, at ptp.Attached, p ptp.Port) {
		h.change(t, func(b *nl.Batch) {
			b.SetNeighbor(nl.Neighbor{NeighborKey: nl.NeighborKey{Link: at.Host.Index, Addr: p.Addresses[0]}, MAC: podweft.MAC{2, 9}})
		})
	}},
	{"gateway's address", func(t *testing.T, h *host, at ptp.Attached, _ ptp.Port) {
		h.change(t, func(b *nl.Batch) {
			b.DeleteAddress(nl.Address{Link: at.Host.Index, Prefix: netip.PrefixFrom(ptp.Gateway6, 64)})
		})
	}},
	{"mark, which is set after creation", func(t *testing.T, h *host, at ptp.Attached, _ ptp.Port) {
		h.change(t, func(b *nl.Batch) { b.Mark(nl.Link{Name: at.Host.Name}) })
	}},
	{"MTU", func(t *testing.T, h *host, at ptp.Attached, _ ptp.Port) {
		h.change(t, func(b *nl.Batch) { b.SetMTU(at.Host.Index, 1300) })
	}},
}

func removeRoute(t testing.TB, h *host, p netip.Prefix) {
	t.Helper()
	var found []nl.Route
	require.NoError(t, h.nl.Routes(t.Context(), func() { found = nil }, func(r nl.Route) {
		if r.Prefix == p && r.Table == nl.TableMain {
			found = append(found, r)
		}
	}))
	require.NotEmpty(t, found)
	h.change(t, func(b *nl.Batch) {
		for _, r := range found {
			b.DeleteRoute(r)
		}
	})
}

// What an Attach that was killed did not come to, or what somebody took away.
func TestAttachAgainCompletes(t *testing.T) {
	inPod := func(do func(pod *machine, at ptp.Attached, b *nl.Batch)) func(*testing.T, *host, *machine, ptp.Attached) {
		return func(t *testing.T, _ *host, pod *machine, at ptp.Attached) {
			pod.change(t, func(b *nl.Batch) { do(pod, at, b) })
		}
	}
	for name, do := range map[string]func(*testing.T, *host, *machine, ptp.Attached){
		"pod's end down": inPod(func(_ *machine, at ptp.Attached, b *nl.Batch) { b.SetUp(at.Pod.Index, false) }),
		"lo down":        inPod(func(_ *machine, _ ptp.Attached, b *nl.Batch) { b.SetUp(1, false) }),
		"address": inPod(func(_ *machine, at ptp.Attached, b *nl.Batch) {
			b.DeleteAddress(nl.Address{Link: at.Pod.Index, Prefix: netip.MustParsePrefix("10.244.0.2/32")})
		}),
		"default routes": inPod(func(_ *machine, _ ptp.Attached, b *nl.Batch) {
			for _, p := range []string{"0.0.0.0/0", "::/0"} {
				b.DeleteRoute(nl.Route{RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: netip.MustParsePrefix(p)}, Protocol: unix.RTPROT_STATIC})
			}
		}),
		"pod's neighbours": inPod(func(_ *machine, at ptp.Attached, b *nl.Batch) {
			b.DeleteNeighbor(nl.NeighborKey{Link: at.Pod.Index, Addr: ptp.Gateway4})
			b.DeleteNeighbor(nl.NeighborKey{Link: at.Pod.Index, Addr: ptp.Gateway6})
		}),
		"everything": func(t *testing.T, h *host, _ *machine, at ptp.Attached) {
			h.change(t, func(b *nl.Batch) { b.DeleteLink(at.Host.Index) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			testCompletes(t, func(t *testing.T, h *host, pod *machine, at ptp.Attached, _ ptp.Port) { do(t, h, pod, at) })
		})
	}
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			testCompletes(t, func(t *testing.T, h *host, _ *machine, at ptp.Attached, p ptp.Port) { d.do(t, h, at, p) })
		})
	}
}

func testCompletes(t *testing.T, damage func(*testing.T, *host, *machine, ptp.Attached, ptp.Port)) {
	h := newHost(t, ptp.Config{})
	pod := newMachine(t, "pod")
	p := port(dual, pod, 2)
	at := h.attach(t, p)
	damage(t, h, pod, at, p)
	h.attach(t, p)
	require.NoError(t, h.pods.Check(t.Context(), p))
	end := h.link(t, at.Host.Name)
	assert.Equal(t, []any{"podweft:podweft/pod/eth0", true, 1450}, []any{end.Alias, end.Up, end.MTU})
	for _, a := range p.Addresses {
		h.ping(t, a)
	}
	_, other := h.attachNew(t, dual, 3)
	for _, a := range other.Addresses {
		pod.ping(t, a)
	}
}

// A pod that was given the address of one that is not detached yet gets it.
func TestAddressGoesToTheLast(t *testing.T) {
	h := newHost(t, ptp.Config{})
	old, p := h.attachNew(t, dual, 2)
	heir := newMachine(t, "heir")
	ph := port(dual, heir, 2)
	at := h.attach(t, ph)
	for i, a := range ph.Addresses {
		h.ping(t, a)
		assert.Contains(t, h.routes(t)[i], "dev "+at.Host.Name)
	}
	require.ErrorIs(t, h.pods.Check(t.Context(), p), ptp.ErrMissing)
	require.NoError(t, h.pods.Detach(t.Context(), p))
	require.Equal(t, []string{"lo"}, old.linkNames(t))
	for _, a := range ph.Addresses {
		h.ping(t, a)
	}
}

// An Attach that fails leaves an address with whom it was.
func TestFailedAttachTakesNoAddress(t *testing.T) {
	h := newHost(t, ptp.Config{})
	_, p := h.attachNew(t, families[0], 2)
	lo := h.link(t, "lo").Index
	h.change(t, func(b *nl.Batch) {
		b.AddRoute(nl.Route{RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: netip.MustParsePrefix("fd00:244::2/128")}, Protocol: unix.RTPROT_STATIC, Link: lo})
	})
	before := h.routes(t)
	_, err := h.pods.Attach(t.Context(), port(dual, newMachine(t, "heir"), 2))
	require.ErrorIs(t, err, podweft.ErrConflict)
	assert.Equal(t, before, h.routes(t))
	h.ping(t, p.Addresses[0])
}

// What is in the way is named and stays; so does everything else.
func TestConflicts(t *testing.T) {
	foreign := func(t *testing.T, h *host, p string) {
		lo := h.link(t, "lo").Index
		h.change(t, func(b *nl.Batch) {
			b.SetUp(lo, true)
			b.AddRoute(nl.Route{RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: netip.MustParsePrefix(p)}, Protocol: unix.RTPROT_STATIC, Link: lo})
		})
	}
	veth := func(t *testing.T, h *host, in *machine, name, peer string) {
		ns, err := os.Open(in.NetNS())
		require.NoError(t, err)
		defer ns.Close()
		h.change(t, func(b *nl.Batch) {
			b.AddVeth(nl.Link{Name: name, Alias: "a person's"}, nl.Link{Name: peer}, int(ns.Fd()))
		})
	}
	for _, tt := range []struct {
		name   string
		before func(t *testing.T, h *host, pod *machine)
		change func(p *ptp.Port)
		want   string
	}{
		{"route", func(t *testing.T, h *host, _ *machine) { foreign(t, h, "10.244.0.2/32") }, nil, "route 10.244.0.2/32 dev lo proto 4"},
		{"IPv6 route", func(t *testing.T, h *host, _ *machine) { foreign(t, h, "fd00:244::2/128") }, nil, "route fd00:244::2/128 dev lo metric 1024 proto 4"},
		{"pod has eth0", func(t *testing.T, h *host, pod *machine) { veth(t, h, pod, "other", "eth0") }, nil, "link eth0, index 2, veth, without an alias, in "},
		{"host end's name", func(t *testing.T, h *host, _ *machine) { veth(t, h, h.machine, "mine", "twin") },
			func(p *ptp.Port) { p.HostName = "mine" }, `link mine, index 3, veth, alias "a person's"`},
		{"attached elsewhere", func(t *testing.T, h *host, _ *machine) {
			h.attach(t, port(dual, newMachine(t, "pod"), 2))
		}, nil, "the host end of this port in another namespace"},
		{"another MTU", func(t *testing.T, h *host, pod *machine) { h.attach(t, port(dual, pod, 2)) },
			func(p *ptp.Port) { p.MTU = 1300 }, "mtu 1450"},
		{"another address", func(t *testing.T, h *host, pod *machine) { h.attach(t, port(dual, pod, 7)) },
			func(p *ptp.Port) { p.MAC = podweft.MAC{} }, "address 10.244.0.7/32 dev eth0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, ptp.Config{})
			pod := newMachine(t, "pod")
			tt.before(t, h, pod)
			inNode, inPod := h.state(t), pod.state(t)
			p := port(dual, pod, 2)
			if tt.change != nil {
				tt.change(&p)
			}
			_, err := h.pods.Attach(t.Context(), p)
			require.ErrorIs(t, err, podweft.ErrConflict)
			assert.ErrorContains(t, err, tt.want)
			assert.ErrorContains(t, err, "port pod/eth0: ")
			assert.Equal(t, inPod, pod.state(t))
			assert.Equal(t, inNode, h.state(t))
		})
	}
}

func TestFailedAttachLeavesNothing(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name   string
		ctx    context.Context
		change func(h *host, p *ptp.Port)
		want   error
	}{
		{"no namespace", t.Context(), func(_ *host, p *ptp.Port) { p.NetNS = "/run/netns/gone" }, os.ErrNotExist},
		{"the node's own namespace", t.Context(), func(h *host, p *ptp.Port) { p.NetNS = h.NetNS() }, podweft.ErrInvalid},
		{"cancelled", cancelled, func(*host, *ptp.Port) {}, context.Canceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, ptp.Config{})
			pod := newMachine(t, "pod")
			p := port(dual, pod, 2)
			tt.change(h, &p)
			_, err := h.pods.Attach(tt.ctx, p)
			require.ErrorIs(t, err, tt.want)
			assert.Equal(t, []string{"lo"}, h.linkNames(t))
			assert.Equal(t, []string{"lo"}, pod.linkNames(t))
		})
	}
}

// Some container runtimes turn IPv6 off for new links, and some nodes do.
func TestAttachWhereIPv6IsOff(t *testing.T) {
	h := newHost(t, ptp.Config{})
	pod := newMachine(t, "pod")
	for _, m := range []*machine{h.machine, pod} {
		m.setSysctl(t, "net/ipv6/conf/all/disable_ipv6", "1")
		m.setSysctl(t, "net/ipv6/conf/default/disable_ipv6", "1")
	}
	p := port(dual, pod, 2)
	h.attach(t, p)
	for _, a := range p.Addresses {
		h.ping(t, a)
	}
}

// Several attachers stand for several processes.
func TestAttachInParallel(t *testing.T) {
	const pods = 16
	h := newHost(t, ptp.Config{})
	attachers := []*ptp.Attacher{h.pods, h.attacher(t, ptp.Config{}), h.attacher(t, ptp.Config{})}
	var ports []ptp.Port
	for i := range pods {
		ports = append(ports, port(dual, newMachine(t, fmt.Sprintf("pod-%d", i+1)), i+1))
	}
	errs := make([]error, pods)
	var all sync.WaitGroup
	for i, p := range ports {
		all.Go(func() { _, errs[i] = attachers[i%len(attachers)].Attach(t.Context(), p) })
	}
	all.Wait()
	for i, err := range errs {
		require.NoError(t, err, "pod %d", i+1)
		for _, a := range ports[i].Addresses {
			h.ping(t, a)
		}
	}
	assert.Len(t, h.routes(t), 2*pods)
}

func TestDetach(t *testing.T) {
	h := newHost(t, ptp.Config{})
	before := h.state(t)
	pod, p := h.attachNew(t, dual, 2)
	other, po := h.attachNew(t, dual, 3)
	require.NoError(t, h.attacher(t, ptp.Config{}).Detach(t.Context(), ptp.Port{Container: p.Container}), "any attacher can")
	assert.Equal(t, []string{"lo"}, pod.linkNames(t))
	require.NoError(t, h.pods.Detach(t.Context(), p), "again")
	h.ping(t, po.Addresses[0])
	require.ErrorIs(t, h.pods.Detach(t.Context(), ptp.Port{}), podweft.ErrInvalid)

	more, pm := h.attachNew(t, dual, 4)
	all, err := h.pods.Ports(t.Context())
	require.NoError(t, err)
	assert.Len(t, all, 2)
	none, err := h.attacher(t, ptp.Config{Owner: "other"}).Ports(t.Context())
	require.NoError(t, err)
	assert.Empty(t, none)
	require.NoError(t, h.pods.DetachAll(t.Context(), []ptp.Port{{Container: po.Container}, {Container: pm.Container}, {Container: "never"}}))
	assert.Equal(t, []string{"lo"}, other.linkNames(t))
	assert.Equal(t, []string{"lo"}, more.linkNames(t))

	h.attachNew(t, dual, 5)
	require.NoError(t, h.pods.Teardown(t.Context()))
	assert.Equal(t, before, h.state(t))
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		name string
		deed func(t *testing.T, h *host, pod *machine, at ptp.Attached)
		want string // empty: nothing is wrong
	}{
		{"nothing happened", func(*testing.T, *host, *machine, ptp.Attached) {}, ""},
		{"another plugin gave the pod another MTU", func(t *testing.T, _ *host, pod *machine, at ptp.Attached) {
			pod.change(t, func(b *nl.Batch) { b.SetMTU(at.Pod.Index, 1400) })
		}, ""},
		{"route gone", func(t *testing.T, h *host, _ *machine, _ ptp.Attached) {
			removeRoute(t, h, netip.MustParsePrefix("fd00:244::2/128"))
		}, "check route fd00:244::2/128 dev veth"},
		{"down", func(t *testing.T, h *host, _ *machine, at ptp.Attached) { require.NoError(t, h.SetDown(at.Host.Name)) }, "up: is missing"},
		{"gone", func(t *testing.T, h *host, _ *machine, at ptp.Attached) {
			h.change(t, func(b *nl.Batch) { b.DeleteLink(at.Host.Index) })
		}, "is missing"},
		{"gateway's address gone", func(t *testing.T, h *host, _ *machine, at ptp.Attached) {
			h.change(t, func(b *nl.Batch) {
				b.DeleteAddress(nl.Address{Link: at.Host.Index, Prefix: netip.PrefixFrom(ptp.Gateway6, 64)})
			})
		}, "check address fe80::1/64 dev veth"},
		{"pod's default route gone", func(t *testing.T, _ *host, pod *machine, _ ptp.Attached) {
			pod.change(t, func(b *nl.Batch) {
				b.DeleteRoute(nl.Route{RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: netip.MustParsePrefix("0.0.0.0/0")}, Protocol: unix.RTPROT_STATIC})
			})
		}, "check route 0.0.0.0/0 via 169.254.1.1 dev eth0: is missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, ptp.Config{})
			pod := newMachine(t, "pod")
			p := port(dual, pod, 2)
			tt.deed(t, h, pod, h.attach(t, p))
			err := h.pods.Check(t.Context(), p)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ptp.ErrMissing)
			assert.ErrorContains(t, err, tt.want)
		})
	}
}
