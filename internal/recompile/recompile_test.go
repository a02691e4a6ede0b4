package recompile_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/internal/recompile"
	"github.com/podweft/podweft/ipip"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/udp"
	"github.com/podweft/podweft/vxlan"
)

var self = subnet.Node{
	Name: "node-0", Device: "eth0", MTU: 1500,
	Underlay: subnet.Addrs{V4: netip.MustParseAddr("192.0.2.10"), V6: netip.MustParseAddr("2001:db8::10")},
}

func parse(t require.TestingT, kind string) *subnet.Network {
	network, err := subnet.ParseNetwork(fmt.Appendf(nil,
		`{"Network":"10.0.0.0/8","SubnetLen":24,"EnableIPv6":true,"IPv6Network":"fd00::/32","Backend":{"Type":%q}}`, kind))
	require.NoError(t, err)
	return network
}

// leaseOf is a sound lease of node number i.
func leaseOf(kind string, i int) *subnet.Lease {
	data := func(family int) json.RawMessage {
		if kind != vxlan.Type {
			return nil
		}
		return fmt.Appendf(nil, `{"VNI":1,"VtepMAC":"02:00:00:0%d:%02x:%02x"}`, family, i>>8, i&255)
	}
	return &subnet.Lease{
		Key: fmt.Sprintf("10.1.%d.0-24", i), Node: fmt.Sprint("node-", i), Backend: kind,
		Prefixes: subnet.Prefixes{
			V4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 0}), 24),
			V6: netip.MustParsePrefix(fmt.Sprintf("fd00:0:0:%x::/64", i)),
		},
		Underlay: subnet.Addrs{V4: netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)}), V6: netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", 16+i))},
		Data:     subnet.Data{V4: data(4), V6: data(6)},
	}
}

// spoil changes a lease in one of the ways that concern others, its own node or nobody.
func spoil(t *rapid.T, l *subnet.Lease, kind string) {
	other := leaseOf(kind, rapid.IntRange(0, 7).Draw(t, "other"))
	switch rapid.IntRange(0, 10).Draw(t, "spoil") {
	case 0:
		l.Prefixes.V4 = other.Prefixes.V4
	case 1:
		l.Prefixes.V4 = netip.MustParsePrefix("10.1.0.0/22")
	case 2:
		l.Prefixes = subnet.Prefixes{}
	case 3:
		l.Underlay.V4 = netip.Addr{}
	case 4:
		l.Underlay = other.Underlay
	case 5:
		l.Data = other.Data
	case 6:
		l.Data.V6 = json.RawMessage(`"?"`)
	case 7:
		l.Backend = "pigeons"
	case 8:
		l.Prefixes.V6 = netip.Prefix{}
	case 9:
		l.Node = other.Node
	case 10: // another block of that node
		l.Node, l.Underlay, l.Data = other.Node, other.Underlay, other.Data
	}
}

// equalsPure changes a snapshot again and again and compares with the pure Compile each time.
func equalsPure[S any](t *testing.T, kind string, pure recompile.Compile[S], compiler func() func(subnet.Node, *subnet.Snapshot) (S, []subnet.Problem, error)) {
	rapid.Check(t, func(t *rapid.T) {
		again, node := compiler(), self
		network := parse(t, kind)
		var leases []*subnet.Lease
		for i := range 6 {
			leases = append(leases, leaseOf(kind, i))
		}
		for revision := range rapid.IntRange(1, 12).Draw(t, "steps") {
			leases = slices.Clone(leases)
			for range rapid.IntRange(0, 2).Draw(t, "changes") {
				l := leaseOf(kind, rapid.IntRange(0, 9).Draw(t, "number"))
				leases = slices.DeleteFunc(leases, func(o *subnet.Lease) bool { return o.Key == l.Key })
				switch rapid.IntRange(0, 3).Draw(t, "change") {
				case 0:
					continue
				case 1:
					spoil(t, l, kind)
				}
				leases = append(leases, l)
			}
			slices.SortFunc(leases, func(a, b *subnet.Lease) int { return cmp.Compare(a.Key, b.Key) })
			switch rapid.IntRange(0, 15).Draw(t, "what else") {
			case 0:
				node.MTU--
			case 1:
				node.Underlay.V4 = node.Underlay.V4.Next()
			case 2:
				network = parse(t, kind)
			}
			snap := &subnet.Snapshot{Revision: uint64(revision), Network: network, Leases: leases}
			want, wantProblems, wantErr := pure(node, snap)
			got, problems, err := again(node, snap)
			require.Equal(t, wantErr, err)
			require.Equal(t, want, got)
			require.Equal(t, texts(wantProblems), texts(problems))
		}
	})
}

func texts(problems []subnet.Problem) (all []string) {
	for _, p := range problems {
		all = append(all, p.Error())
	}
	return all
}

// TestEqualsPure: whatever comes, goes, changes or clashes, the answer is that of the driver's pure Compile.
func TestEqualsPure(t *testing.T) {
	t.Run(vxlan.Type, func(t *testing.T) { equalsPure(t, vxlan.Type, vxlan.Compile, vxlan.NewCompiler) })
	t.Run(hostgw.Type, func(t *testing.T) { equalsPure(t, hostgw.Type, hostgw.Compile, hostgw.NewCompiler) })
	t.Run(ipip.Type, func(t *testing.T) { equalsPure(t, ipip.Type, ipip.Compile, ipip.NewCompiler) })
	t.Run(udp.Type, func(t *testing.T) { equalsPure(t, udp.Type, udp.Compile, udp.NewCompiler) })
}

// TestGoesWithItsPeer: a tunnel that was there for one peer is not there when that has gone.
func TestGoesWithItsPeer(t *testing.T) {
	compile := ipip.NewCompiler()
	own, peer := leaseOf(ipip.Type, 0), leaseOf(ipip.Type, 1)
	own.Prefixes.V6 = netip.Prefix{}
	peer.Underlay.V4 = netip.Addr{}
	snap := &subnet.Snapshot{Network: parse(t, ipip.Type), Leases: []*subnet.Lease{own, peer}}
	spec, _, err := compile(self, snap)
	require.NoError(t, err)
	require.Len(t, spec.Tunnels, 2)
	spec, _, err = compile(self, &subnet.Snapshot{Network: snap.Network, Leases: []*subnet.Lease{own}})
	require.NoError(t, err)
	require.Len(t, spec.Tunnels, 1)
}

// TestCostsWhatChanged counts the leases that the pure Compile has to look at.
func TestCostsWhatChanged(t *testing.T) {
	looked := 0
	compile := recompile.New(recompile.Kind[hostgw.Spec, hostgw.Peer, struct{}]{
		Compile: func(node subnet.Node, snap *subnet.Snapshot) (hostgw.Spec, []subnet.Problem, error) {
			looked += len(snap.Leases)
			return hostgw.Compile(node, snap)
		},
		Peers:    func(s *hostgw.Spec) *[]hostgw.Peer { return &s.Peers },
		Order:    func(a, b hostgw.Peer) int { return a.Prefixes[0].Compare(b.Prefixes[0]) },
		SameRest: func(a, b hostgw.Spec) bool { return a.Device == b.Device },
	})
	snap := &subnet.Snapshot{Network: parse(t, hostgw.Type)}
	for i := range 200 {
		snap.Leases = append(snap.Leases, leaseOf(hostgw.Type, i))
	}
	slices.SortFunc(snap.Leases, func(a, b *subnet.Lease) int { return cmp.Compare(a.Key, b.Key) })
	step := func(change func(*subnet.Snapshot)) int {
		next := *snap
		next.Leases = slices.Clone(snap.Leases)
		change(&next)
		snap, looked = &next, 0
		_, _, err := compile(self, snap)
		require.NoError(t, err)
		return looked
	}
	moved := func(at int) *subnet.Lease {
		l := *snap.Leases[at]
		l.Underlay.V4 = netip.MustParseAddr("192.0.2.254")
		return &l
	}
	all := len(snap.Leases)
	assert.Equal(t, all, step(func(*subnet.Snapshot) {}), "the first")
	assert.Zero(t, step(func(*subnet.Snapshot) {}), "nothing")
	assert.Equal(t, 4, step(func(s *subnet.Snapshot) { s.Leases[99] = moved(99) }), "one before, one after, each beside our own")
	assert.Equal(t, 3, step(func(s *subnet.Snapshot) { s.Leases = slices.Delete(s.Leases, 50, 51) }), "one gone: with it, and without")
	lost := *snap.Leases[70]
	lost.Underlay = subnet.Addrs{}
	assert.Greater(t, step(func(s *subnet.Snapshot) { s.Leases[70] = &lost }), all-2, "one that has become bad")
	assert.Equal(t, 3, step(func(s *subnet.Snapshot) { s.Leases = slices.Delete(s.Leases, 20, 21) }), "another gone, and the bad one stays")
	assert.Greater(t, step(func(s *subnet.Snapshot) {
		l := *s.Leases[60]
		l.Prefixes.V4 = netip.MustParsePrefix("10.1.0.0/16")
		s.Leases[60] = &l
	}), all-3, "one that overlaps all")
}

// TestOneLeaseOfAPeer: of two leases that are one peer, one goes, and comes back.
func TestOneLeaseOfAPeer(t *testing.T) {
	own, first, second := leaseOf(vxlan.Type, 0), leaseOf(vxlan.Type, 1), leaseOf(vxlan.Type, 2)
	second.Node, second.Underlay, second.Data = first.Node, first.Underlay, first.Data
	both := []*subnet.Lease{own, first, second}
	again, network := vxlan.NewCompiler(), parse(t, vxlan.Type)
	for _, leases := range [][]*subnet.Lease{both, {own, first}, both, {own, second}, both} {
		snap := &subnet.Snapshot{Network: network, Leases: leases}
		want, _, err := vxlan.Compile(self, snap)
		require.NoError(t, err)
		got, problems, err := again(self, snap)
		require.NoError(t, err)
		assert.Empty(t, problems)
		assert.Equal(t, want, got)
	}
}
