package ledger_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/internal/ledger"
)

func network(t require.TestingT, conf string) *subnet.Network {
	n, err := subnet.ParseNetwork([]byte(conf))
	require.NoError(t, err)
	return n
}

// networks are what the machine switches between: lengths, bounds and families differ.
var networks = []string{
	`{"Network": "10.244.0.0/20"}`,
	`{"Network": "10.244.0.0/20", "SubnetLen": 26, "SubnetMax": "10.244.4.0"}`,
	`{"Network": "10.244.0.0/20", "SubnetLen": 22, "SubnetMin": "10.244.0.0"}`,
	`{"EnableIPv6": true, "Network": "10.244.0.0/20", "IPv6Network": "fd00:244::/60"}`,
	`{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:244::/60", "IPv6SubnetLen": 66}`,
}

// TestRules does whatever can be done, in any order, and checks after each step what must hold at all times.
func TestRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &ledger.Ledger{Revision: 1, Network: network(t, networks[0])}
		now := ledger.Now{Ticks: time.Hour, Time: time.Unix(1e9, 0)}
		node := func(t *rapid.T) string { return fmt.Sprint("node-", rapid.IntRange(0, 9).Draw(t, "node")) }
		last := map[string]*subnet.Lease{} // what each node was granted last
		some := func(t *rapid.T) *subnet.Lease {
			if len(last) == 0 {
				t.Skip("no lease yet")
			}
			return last[rapid.SampledFrom(slices.Sorted(maps.Keys(last))).Draw(t, "of")]
		}
		var before *ledger.Ledger
		check := func() {
			invariants(t, l, now)
			if before == nil {
				return
			}
			changed := !slices.EqualFunc(l.Entries, before.Entries, func(a, b ledger.Entry) bool { return a.Lease == b.Lease }) || l.Network != before.Network
			require.Equal(t, changed, l.Revision > before.Revision, "the revision tells of changes, and of nothing else")
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) {
				check()
				before = l.Clone()
			},
			"acquire": func(t *rapid.T) {
				c := subnet.Claim{Node: node(t), TTL: time.Duration(rapid.IntRange(0, 3).Draw(t, "ttl")) * time.Second}
				if old := last[c.Node]; old != nil && rapid.Bool().Draw(t, "again") {
					c.Prefer, c.Exact = old.Prefixes, rapid.Bool().Draw(t, "exact")
				}
				held := prefixesOf(l, c.Node)
				got, err := l.Acquire(c, now)
				if err != nil {
					require.True(t, errors.Is(err, subnet.ErrExhausted) || c.Exact && errors.Is(err, subnet.ErrTaken), "%v", err)
					return
				}
				require.True(t, l.Network.Fits(got.Prefixes), "%s", got)
				if c.Exact {
					require.Equal(t, c.Prefer, got.Prefixes)
				}
				if l.Network.Fits(held) {
					require.Equal(t, held, got.Prefixes, "a node keeps what it holds")
				}
				for _, r := range l.Reservations {
					require.False(t, r.Node != c.Node && r.Prefixes.Overlaps(got.Prefixes), "%s, reserved %s", got, r)
				}
				last[c.Node] = got
			},
			"update": func(t *rapid.T) {
				changed := *some(t)
				changed.Underlay.V4 = netip.AddrFrom4([4]byte{192, 0, 2, byte(rapid.IntRange(0, 3).Draw(t, "addr"))})
				before := deadlines(l)
				got, err := l.Update(&changed, now)
				checkOwn(t, l, &changed, got, err)
				require.Equal(t, before, deadlines(l), "an update is no renewal")
			},
			"renew": func(t *rapid.T) {
				lease := some(t)
				got, err := l.Renew(lease, now)
				checkOwn(t, l, lease, got, err)
			},
			"release": func(t *rapid.T) {
				lease := some(t)
				l.Release(lease)
				require.NotContains(t, holders(l), lease.Node+" "+lease.Key)
			},
			"reserve": func(t *rapid.T) {
				p := subnet.Prefixes{V4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(rapid.IntRange(0, 15).Draw(t, "third")), 0}), rapid.IntRange(20, 26).Draw(t, "bits"))}
				who := ""
				if rapid.Bool().Draw(t, "for a node") {
					who = node(t)
				}
				if err := l.Reserve(p, who); err != nil {
					return
				}
				for _, e := range l.Entries {
					require.False(t, e.Lease.Node != who && e.Lease.Prefixes.Overlaps(p), "reserved %s under %s", p, e.Lease)
				}
			},
			"unreserve": func(t *rapid.T) {
				if len(l.Reservations) == 0 {
					t.Skip("none")
				}
				l.Unreserve(rapid.SampledFrom(l.Reservations).Draw(t, "which").Prefixes)
			},
			"time": func(t *rapid.T) {
				d := time.Duration(rapid.IntRange(1, 2000).Draw(t, "ms")) * time.Millisecond
				now.Ticks, now.Time = now.Ticks+d, now.Time.Add(d)
				l.Expire(now)
			},
			"network": func(t *rapid.T) {
				l.SetNetwork(network(t, rapid.SampledFrom(networks).Draw(t, "conf")))
			},
		})
	})
}

// checkOwn checks the answer to an Update or Renew of lease.
func checkOwn(t *rapid.T, l *ledger.Ledger, lease, got *subnet.Lease, err error) {
	if err != nil {
		require.ErrorIs(t, err, subnet.ErrLeaseLost)
		require.NotContains(t, holders(l), lease.Node+" "+lease.Key)
		return
	}
	require.Contains(t, holders(l), lease.Node+" "+lease.Key)
	require.Equal(t, lease.Prefixes, got.Prefixes)
}

func prefixesOf(l *ledger.Ledger, node string) subnet.Prefixes {
	for _, e := range l.Entries {
		if e.Lease.Node == node {
			return e.Lease.Prefixes
		}
	}
	return subnet.Prefixes{}
}

func deadlines(l *ledger.Ledger) (all []time.Duration) {
	for _, e := range l.Entries {
		all = append(all, e.Deadline)
	}
	return all
}

func holders(l *ledger.Ledger) (all []string) {
	for _, e := range l.Entries {
		all = append(all, e.Lease.Node+" "+e.Lease.Key)
	}
	return all
}

func invariants(t *rapid.T, l *ledger.Ledger, now ledger.Now) {
	nodes := map[string]bool{}
	for i, e := range l.Entries {
		require.False(t, nodes[e.Lease.Node], "%s has two leases", e.Lease.Node)
		nodes[e.Lease.Node] = true
		require.Equal(t, ledger.Key(e.Lease.Prefixes), e.Lease.Key)
		require.LessOrEqual(t, e.Lease.Revision, l.Revision)
		require.True(t, e.TTL == 0 || e.Deadline > now.Ticks, "expired")
		for _, o := range l.Entries[:i] {
			require.False(t, e.Lease.Prefixes.Overlaps(o.Lease.Prefixes), "%s, %s", e.Lease, o.Lease)
			require.Less(t, o.Lease.Key, e.Lease.Key)
		}
	}
	for i, r := range l.Reservations {
		for _, o := range l.Reservations[:i] {
			require.False(t, r.Prefixes.Overlaps(o.Prefixes), "%s, %s", r, o)
		}
	}
}

func TestKey(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("10.244.3.0/24"), netip.MustParsePrefix("fd00:244:0:3::/64")
	require.Equal(t, "10.244.3.0-24", ledger.Key(subnet.Prefixes{V4: v4}))
	require.Equal(t, "10.244.3.0-24&fd00:244:0:3::-64", ledger.Key(subnet.Prefixes{V4: v4, V6: v6}))
	require.Equal(t, "fd00:244:0:3::-64", ledger.Key(subnet.Prefixes{V6: v6}))
}
