package ptp_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/ptp"
)

const patience = 20 * time.Second

var local = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/26"), netip.MustParsePrefix("fd00:244::/122")}

// TestPlan holds the dry run that a person reads.
func TestPlan(t *testing.T) {
	h := newHost(t, ptp.Config{})
	d := h.driver(t)
	one, two := newMachine(t, "one"), newMachine(t, "two")
	p1, p2 := port(dual, one, 2), port(dual, two, 3)
	p1.HostName, p2.HostName = "cali1", "cali2"
	spec := ptp.Spec{Ports: []ptp.Port{p2, p1}, Local: local}
	const want = `+ link cali1 peer eth0 of one [10.244.0.2 fd00:244::2]
+ link cali2 peer eth0 of two [10.244.0.3 fd00:244::3]
+ blackhole route 10.244.0.0/26
+ blackhole route fd00:244::/122 metric 1024
`
	plan, err := d.Plan(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, want, plan.String())
	assert.Equal(t, []string{"lo"}, h.linkNames(t), "nothing was written")
	plan, err = d.Apply(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, want, plan.String())
	plan, err = d.Apply(t.Context(), spec)
	require.NoError(t, err)
	assert.Empty(t, plan.String(), "the second time")
	for _, a := range p2.Addresses {
		one.ping(t, a)
	}

	h.change(t, func(b *nl.Batch) { b.SetUp(h.link(t, "cali1").Index, false) })
	h.change(t, func(b *nl.Batch) { b.DeleteLink(h.link(t, "cali2").Index) })
	spec.Local = local[:1]
	plan, err = d.Plan(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, `~ link cali1 up alias podweft:podweft/one/eth0
+ address fe80::1/64 dev cali1
+ neighbour 10.244.0.2 lladdr `+macOf(t, one)+` dev cali1
+ neighbour fd00:244::2 lladdr `+macOf(t, one)+` dev cali1
+ route 10.244.0.2/32 dev cali1
+ route fd00:244::2/128 dev cali1 metric 1024
+ link cali2 peer eth0 of two [10.244.0.3 fd00:244::3]
- blackhole route fd00:244::/122 metric 1024
`, plan.String())
	_, err = d.Apply(t.Context(), spec)
	require.NoError(t, err)
	for _, a := range p2.Addresses { // a link that comes up takes a moment, for which only Attach waits
		require.Eventually(t, func() bool { return pingable(t.Context(), one, a) }, patience, 10*time.Millisecond)
	}

	_, err = d.Teardown(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"lo"}, h.linkNames(t))
	assert.Empty(t, h.routes(t))
}

func macOf(t *testing.T, pod *machine) string { return pod.link(t, "eth0").MAC.String() }

// TestRepair: what somebody takes away comes back, and with it traffic.
func TestRepair(t *testing.T) {
	h := newHost(t, ptp.Config{})
	d := h.driver(t)
	pod, other := newMachine(t, "pod"), newMachine(t, "other")
	p, po := port(dual, pod, 2), port(dual, other, 3)
	loop := sabotage.Keep(t, d, ptp.Spec{Ports: []ptp.Port{p, po}, Local: local})
	require.Empty(t, loop.Status().Failing)
	mishaps := append(damages, struct {
		name string
		do   func(t *testing.T, h *host, at ptp.Attached, p ptp.Port)
	}{"port deleted", func(t *testing.T, h *host, at ptp.Attached, _ ptp.Port) {
		h.change(t, func(b *nl.Batch) { b.DeleteLink(at.Host.Index) })
	}})
	for _, m := range mishaps {
		t.Run(m.name, func(t *testing.T) {
			sabotage.Settle(t, loop)
			at, err := h.pods.Attach(t.Context(), p) // which is there: it says where
			require.NoError(t, err)
			before := h.routes(t)
			start := time.Now()
			m.do(t, h, at, p)
			require.Eventually(t, func() bool { return h.pods.Check(t.Context(), p) == nil && h.link(t, at.Host.Name).Alias != "" },
				patience, time.Millisecond)
			t.Logf("back after %v", time.Since(start).Round(100*time.Microsecond))
			assert.Eventually(t, func() bool {
				plan, err := d.Plan(t.Context(), ptp.Spec{Ports: []ptp.Port{p, po}, Local: local})
				return err == nil && len(plan) == 0
			}, patience, time.Millisecond)
			assert.Equal(t, before, h.routes(t))
			for _, a := range po.Addresses {
				require.Eventually(t, func() bool { return pingable(t.Context(), pod, a) }, patience, 10*time.Millisecond)
			}
		})
	}
}

func pingable(ctx context.Context, from *machine, to netip.Addr) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := from.Ping(ctx, to)
	return err == nil
}

// TestRepairOfIPv4Settings: of which no event tells, so the next pass finds them.
func TestRepairOfIPv4Settings(t *testing.T) {
	h := newHost(t, ptp.Config{})
	d := h.driver(t)
	p := port(dual, newMachine(t, "pod"), 2)
	spec := ptp.Spec{Ports: []ptp.Port{p}}
	_, err := d.Apply(t.Context(), spec)
	require.NoError(t, err)
	end := h.attach(t, p).Host.Name
	for key, other := range map[string]string{"rp_filter": "2", "proxy_arp": "0"} {
		key = "net/ipv4/conf/" + end + "/" + key
		h.setSysctl(t, key, other)
		require.ErrorIs(t, h.pods.Check(t.Context(), p), ptp.ErrMissing)
		plan, err := d.Apply(t.Context(), spec)
		require.NoError(t, err)
		assert.Equal(t, "~ link "+end+" proxy_arp 1 rp_filter 1\n", plan.String())
		assert.Equal(t, "1\n", h.sysctl(t, key))
		require.NoError(t, h.pods.Check(t.Context(), p))
	}
}

// TestDriverLeavesOthersAlone: ports that it does not know, and routes that are not ours.
func TestDriverLeavesOthersAlone(t *testing.T) {
	h := newHost(t, ptp.Config{})
	d := h.driver(t)
	_, unknown := h.attachNew(t, dual, 9)
	pod := newMachine(t, "pod")
	p := port(dual, pod, 2)
	lo := h.link(t, "lo").Index
	h.change(t, func(b *nl.Batch) {
		b.SetUp(lo, true)
		for _, text := range []string{"10.244.0.0/26", "198.51.100.0/24"} {
			b.AddRoute(nl.Route{RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: netip.MustParsePrefix(text)}, Protocol: unix.RTPROT_BIRD, Type: unix.RTN_BLACKHOLE})
		}
	})
	spec := ptp.Spec{Ports: []ptp.Port{p}, Local: local}
	plan, err := d.Plan(t.Context(), spec)
	require.NoError(t, err)
	assert.Contains(t, plan.String(), "+ blackhole route 10.244.0.0/26  ! create blackhole route 10.244.0.0/26: another program's object is in the way")
	for range 2 {
		_, err = d.Apply(t.Context(), spec)
		require.ErrorIs(t, err, podweft.ErrConflict)
	}
	for _, a := range append(p.Addresses, unknown.Addresses...) {
		h.ping(t, a)
	}
	_, err = d.Apply(t.Context(), ptp.Spec{})
	require.NoError(t, err)
	assert.Equal(t, []string{
		"route 10.244.0.0/26", "route 10.244.0.2/32", "route 10.244.0.9/32", "route 198.51.100.0/24",
		"route fd00:244::2/128", "route fd00:244::9/128",
	}, firstWords(h.routes(t)))
}

// firstWords cuts the links off.
func firstWords(routes []string) (all []string) {
	for _, r := range routes {
		for i := range r {
			if len(r) > i+5 && (r[i:i+5] == " dev " || i+8 < len(r) && r[i:i+8] == " metric ") {
				r = r[:i]
				break
			}
		}
		all = append(all, r)
	}
	return all
}

// TestAddressOfAPortMoves: a route of ours to a port that has the address no more is replaced, or removed.
func TestAddressOfAPortMoves(t *testing.T) {
	h := newHost(t, ptp.Config{})
	d := h.driver(t)
	pod := newMachine(t, "pod")
	p := port(dual, pod, 2)
	_, err := d.Apply(t.Context(), ptp.Spec{Ports: []ptp.Port{p}})
	require.NoError(t, err)
	h.change(t, func(b *nl.Batch) { // one of ours that leads there for no reason
		b.AddRoute(nl.Route{
			RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: netip.MustParsePrefix("10.244.0.77/32")},
			Protocol: protocol(t, h), Link: linkOf(t, h),
		})
	})
	plan, err := d.Apply(t.Context(), ptp.Spec{Ports: []ptp.Port{p}})
	require.NoError(t, err)
	assert.Contains(t, plan.String(), "- route 10.244.0.77/32 dev veth")
	assert.Len(t, plan, 1)
	_, err = d.Apply(t.Context(), ptp.Spec{Ports: []ptp.Port{p, p}})
	require.ErrorIs(t, err, podweft.ErrInvalid)
}

// TestLocalOfOneAddress: the blackhole of a single address has the place of a pod's route, also where the Spec does not name the pod's port,
// which a plugin attached. It gives way to the pod, and is back when that has gone.
func TestLocalOfOneAddress(t *testing.T) {
	h := newHost(t, ptp.Config{})
	pod := newMachine(t, "pod")
	p := port(dual, pod, 2)
	var single []netip.Prefix
	for _, a := range p.Addresses {
		single = append(single, netip.PrefixFrom(a, a.BitLen()))
	}
	d := h.driver(t)
	loop := sabotage.Keep(t, d, ptp.Spec{Local: single})
	dropped := []string{"blackhole route 10.244.0.2/32", "blackhole route fd00:244::2/128 metric 1024"}
	for range 3 {
		require.Eventually(t, func() bool {
			plan, err := d.Plan(t.Context(), ptp.Spec{})
			return err == nil && plan.String() == "- "+dropped[0]+"\n- "+dropped[1]+"\n"
		}, patience, time.Millisecond, "blackholes")
		at := h.attach(t, p)
		for _, a := range p.Addresses {
			h.ping(t, a)
		}
		// Another pass, as when a block was claimed.
		require.NoError(t, loop.Wait(t.Context(), loop.Set(ptp.Spec{Local: append(local[:1:1], single...)})))
		sabotage.Settle(t, loop)
		for _, a := range p.Addresses {
			h.ping(t, a)
		}
		plan, err := d.Plan(t.Context(), ptp.Spec{Local: append(local[:1:1], single...)})
		require.NoError(t, err)
		assert.Empty(t, plan.String())
		assert.Contains(t, h.routes(t), "route 10.244.0.2/32 dev "+at.Host.Name)
		loop.Set(ptp.Spec{Local: single})
		require.NoError(t, h.pods.Detach(t.Context(), p))
	}

	// A port that the Spec names, and that has the address no more, is no pod's that nobody told of.
	h.attach(t, p)
	other := p
	other.Addresses = []netip.Addr{netip.MustParseAddr("10.244.0.7"), netip.MustParseAddr("fd00:244::7")}
	plan, err := d.Plan(t.Context(), ptp.Spec{Ports: []ptp.Port{other}, Local: single})
	require.NoError(t, err)
	assert.Contains(t, plan.String(), "~ "+dropped[0]+"  # was route 10.244.0.2/32 dev ")
}

func protocol(t *testing.T, h *host) uint8 {
	return sabotage.RouteTo(t, h.Node, netip.MustParsePrefix("10.244.0.2/32")).Protocol
}

func linkOf(t *testing.T, h *host) int {
	return sabotage.RouteTo(t, h.Node, netip.MustParsePrefix("10.244.0.2/32")).Link
}

func TestDeadPodDelaysNobody(t *testing.T) {
	h := newHost(t, ptp.Config{})
	d := h.driver(t)
	pod := newMachine(t, "pod")
	p := port(dual, pod, 2)
	dead := ptp.Port{Container: "dead", NetNS: "/run/netns/gone", Addresses: []netip.Addr{netip.MustParseAddr("10.244.0.66")}}
	_, err := d.Apply(t.Context(), ptp.Spec{Ports: []ptp.Port{dead, p}})
	var failed *podweft.OpError
	require.ErrorAs(t, err, &failed)
	assert.Contains(t, failed.Object.String(), "of dead")
	h.ping(t, p.Addresses[0])
}
