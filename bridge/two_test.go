package bridge_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/testnet"
)

// defaults are the pod's default routes, the one that counts first in each family.
func (m *machine) defaults(t testing.TB) (all []string) {
	t.Helper()
	var found []nl.Route
	require.NoError(t, m.nl.Routes(t.Context(), func() { found = nil }, func(r nl.Route) {
		if r.Table == nl.TableMain && r.Prefix.Bits() == 0 {
			found = append(found, r)
		}
	}))
	slices.SortFunc(found, func(a, b nl.Route) int { return nl.CompareRouteKeys(a.RouteKey, b.RouteKey) })
	links, err := m.nl.Links()
	require.NoError(t, err)
	for _, r := range found {
		of := slices.IndexFunc(links, func(l nl.Link) bool { return l.Index == r.Link })
		all = append(all, r.Format(links[of].Name))
	}
	return all
}

// second is a second port of the pod, on the bridge of another network or of the same.
type second struct {
	name   string
	owner  string
	bridge bridge.Bridge
}

var seconds = []second{
	{"of another network", "red", bridge.Bridge{Name: "br9", MTU: 1450, Gateways: prefixes("10.9.1.1/24", "fd00:9:0:1::1/64")}},
	{"of the same network", "podweft", dual},
}

// joins attaches the pod twice.
func (s second) joins(t *testing.T) (h *host, pod *machine, net *bridge.Attacher, first, other bridge.Port) {
	h = newHost(t, bridge.Config{})
	pod = newMachine(t, "pod")
	for _, of := range []string{"all", "default"} { // of the namespace that pods inherit theirs from
		pod.setSysctl(t, "net/ipv4/conf/"+of+"/rp_filter", "0")
	}
	net = h.attacher(t, bridge.Config{Owner: s.owner})
	first = port(dual, pod, 1)
	other = port(s.bridge, pod, 2)
	other.Name = "net1"
	h.attach(t, dual, first)
	_, err := net.Attach(t.Context(), s.bridge, other)
	require.NoError(t, err)
	return h, pod, net, first, other
}

// The first port stays the way to everything. Both answer, and what is sent from the second's address arrives.
func TestTwoPortsOfAPod(t *testing.T) {
	for _, s := range seconds {
		t.Run(s.name, func(t *testing.T) {
			h, pod, net, first, other := s.joins(t)
			behind := fmt.Sprint(2000 + pod.link(t, "net1").Index)
			assert.Equal(t, []string{
				"route 0.0.0.0/0 via 10.244.1.1 dev eth0", "route 0.0.0.0/0 via " + s.bridge.Gateways[0].Addr().String() + " dev net1 metric " + behind,
				"route ::/0 via fd00:244:0:1::1 dev eth0 metric 1024", "route ::/0 via " + s.bridge.Gateways[1].Addr().String() + " dev net1 metric " + behind,
			}, pod.defaults(t))
			for i := range s.bridge.Gateways {
				h.ping(t, first.Addresses[i].Addr())
				h.ping(t, other.Addresses[i].Addr())
				pod.ping(t, dual.Gateways[i].Addr())
				pod.echoBy(t, "net1", s.bridge.Gateways[i].Addr(), testnet.Echo{From: other.Addresses[i].Addr()})
			}
			require.NoError(t, h.pods.Check(t.Context(), dual, first))
			require.NoError(t, net.Check(t.Context(), s.bridge, other))

			before := pod.state(t)
			h.attach(t, dual, first)
			_, err := net.Attach(t.Context(), s.bridge, other)
			require.NoError(t, err)
			assert.Equal(t, before, pod.state(t), "attached again")
		})
	}
}

// Whichever of the two goes, the other stays and is the way to everything.
func TestOneOfTwoPortsGoes(t *testing.T) {
	for _, s := range seconds {
		t.Run(s.name+", first", func(t *testing.T) {
			h, pod, net, first, other := s.joins(t)
			for i := range first.Addresses {
				h.ping(t, other.Addresses[i].Addr())
			}
			require.NoError(t, h.pods.Detach(t.Context(), first))
			require.NoError(t, net.Check(t.Context(), s.bridge, other))
			assert.Len(t, pod.defaults(t), 2)
			for i, g := range s.bridge.Gateways {
				pod.pingBy(t, "net1", g.Addr())
				h.ping(t, other.Addresses[i].Addr())
			}
			_, err := net.Attach(t.Context(), s.bridge, other)
			require.NoError(t, err, "its routes are not the first, but they are there")
			assert.Len(t, pod.defaults(t), 2)
			h.attach(t, dual, first)
			assert.Contains(t, pod.defaults(t)[0], "dev eth0", "it is the way again")
			for _, link := range []string{"eth0", "net1"} {
				require.NoError(t, pod.Do(func() error {
					value, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + link + "/arp_ignore")
					assert.Equal(t, "1\n", string(value), link)
					return err
				}))
			}
		})
		t.Run(s.name+", second", func(t *testing.T) {
			h, pod, net, first, other := s.joins(t)
			for i := range first.Addresses {
				h.ping(t, first.Addresses[i].Addr())
			}
			require.NoError(t, net.Detach(t.Context(), other))
			require.NoError(t, h.pods.Check(t.Context(), dual, first))
			assert.Len(t, pod.defaults(t), 2)
			for i, g := range dual.Gateways {
				pod.ping(t, g.Addr())
				h.ping(t, first.Addresses[i].Addr())
			}
		})
	}
}

// An Attach of the second was killed half-way, or somebody took its routes away.
func TestSecondPortIsCompleted(t *testing.T) {
	for _, s := range seconds {
		t.Run(s.name, func(t *testing.T) {
			h, pod, net, first, other := s.joins(t)
			before := pod.state(t)
			metric := 2000 + uint32(pod.link(t, "net1").Index)
			for _, lost := range [][]string{{"0.0.0.0/0"}, {"::/0"}, {"0.0.0.0/0", "::/0"}} {
				pod.change(t, func(b *nl.Batch) {
					for _, p := range lost {
						b.DeleteRoute(nl.Route{
							RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: netip.MustParsePrefix(p), Metric: metric}, Protocol: unix.RTPROT_STATIC,
						})
					}
				})
				require.ErrorIs(t, net.Check(t.Context(), s.bridge, other), bridge.ErrMissing)
				require.NoError(t, h.pods.Check(t.Context(), dual, first))
				_, err := net.Attach(t.Context(), s.bridge, other)
				require.NoError(t, err)
				assert.Equal(t, before, pod.state(t), lost)
			}
		})
	}
}

// Another program's route by the second port's own link is no other link's.
func TestRouteInTheWayOfSecondPort(t *testing.T) {
	s := seconds[0]
	_, pod, net, _, other := s.joins(t)
	link := pod.link(t, "net1").Index
	theirs := nl.Route{
		RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: netip.MustParsePrefix("0.0.0.0/0"), Metric: 2000 + uint32(link)},
		Protocol: unix.RTPROT_STATIC, Gateway: netip.MustParseAddr("10.9.1.7"), Link: link,
	}
	pod.change(t, func(b *nl.Batch) { b.ReplaceRoute(theirs) })
	before := pod.state(t)
	_, err := net.Attach(t.Context(), s.bridge, other)
	require.ErrorIs(t, err, podweft.ErrConflict)
	assert.ErrorContains(t, err, "route 0.0.0.0/0 via 10.9.1.7 dev net1")
	assert.Equal(t, before, pod.state(t))
}
