package cable

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// What was not lacking when somebody looked is not taken for another's when somebody else was faster with the rest.
func TestCompleteBesideAnother(t *testing.T) {
	n := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1}).Nodes[0]
	conn, err := nl.Dial(n.NetNS())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	pod := &Pod{Space: Space{Conn: conn, Path: n.NetNS()}}
	eth0, err := conn.Link("eth0")
	require.NoError(t, err)

	s := (&Pair{Peer: eth0}).Setup()
	for _, a := range []netip.Addr{n.V4, n.V6} {
		bits := map[bool]int{true: 24, false: 64}[a.Is4()]
		s.Addresses = append(s.Addresses, nl.Address{Link: eth0.Index, Prefix: netip.PrefixFrom(a, bits)})
	}
	for _, to := range []string{"10.1.0.0/16", "10.2.0.0/16", "fd01::/64", "fd02::/64"} {
		r := nl.Route{RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: netip.MustParsePrefix(to)}, Protocol: unix.RTPROT_STATIC, Link: eth0.Index}
		s.Routes = append(s.Routes, r)
	}
	lacking, err := pod.Lacking(t.Context(), s)
	require.NoError(t, err)
	require.Empty(t, lacking.Addresses)
	require.Equal(t, s.Routes, lacking.Routes)

	require.NoError(t, pod.Do(t.Context(), AddRoute("eth0", s.Routes[0]), AddRoute("eth0", s.Routes[2])))
	require.NoError(t, pod.Complete(t.Context(), s, lacking))
	lacking, err = pod.Lacking(t.Context(), s)
	require.NoError(t, err)
	assert.Empty(t, lacking.Steps())
}
