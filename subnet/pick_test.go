package subnet_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/podweft/podweft/subnet"
)

func TestPick(t *testing.T) {
	four := `{"Network": "10.244.0.0/16", "SubnetMin": "10.244.1.0", "SubnetMax": "10.244.4.0"}`
	for _, c := range []struct {
		name   string
		conf   string
		prefer []subnet.Prefixes
		taken  []subnet.Prefixes
		want   []string // any of them
		err    error
	}{
		{name: "any", conf: four, want: []string{"10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24", "10.244.4.0/24"}},
		{name: "the last", conf: four, taken: []subnet.Prefixes{prefixes(t, "10.244.1.0/24"), prefixes(t, "10.244.3.0/24"), prefixes(t, "10.244.4.0/24")}, want: []string{"10.244.2.0/24"}},
		{name: "none", conf: four, taken: []subnet.Prefixes{prefixes(t, "10.244.1.0/24"), prefixes(t, "10.244.2.0/23"), prefixes(t, "10.244.4.128/32")}, err: subnet.ErrExhausted},
		{name: "all of it reserved", conf: four, taken: []subnet.Prefixes{prefixes(t, "0.0.0.0/0")}, err: subnet.ErrExhausted},
		{name: "what is beside does not count", conf: four, taken: []subnet.Prefixes{prefixes(t, "10.244.0.0/24"), prefixes(t, "10.244.5.0/24"), prefixes(t, "10.244.1.0/24"), prefixes(t, "10.244.2.0/23")}, want: []string{"10.244.4.0/24"}},
		{name: "preferred", conf: four, prefer: []subnet.Prefixes{prefixes(t, "10.244.3.0/24")}, want: []string{"10.244.3.0/24"}},
		{name: "second preference", conf: four, prefer: []subnet.Prefixes{{}, prefixes(t, "10.244.9.0/24"), prefixes(t, "10.244.3.0/25"), prefixes(t, "10.244.3.0/24"), prefixes(t, "10.244.2.0/24")}, taken: []subnet.Prefixes{prefixes(t, "10.244.3.9/32")}, want: []string{"10.244.2.0/24"}},
		{name: "whole IPv6", conf: `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "::/0", "IPv6SubnetLen": 126}`, prefer: []subnet.Prefixes{prefixes(t, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126")}, want: []string{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126"}},
		{name: "whole IPv6 taken", conf: `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "::/0", "IPv6SubnetLen": 126}`, taken: []subnet.Prefixes{prefixes(t, "::/0")}, err: subnet.ErrExhausted},
		{
			name: "whole IPv6 but two taken", conf: `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00::/8", "IPv6SubnetLen": 12}`,
			taken: []subnet.Prefixes{prefixes(t, "fd00::/9"), prefixes(t, "fdc0::/11"), prefixes(t, "fdf0::/12"), prefixes(t, "fd80::/11"), prefixes(t, "fda0::/12")}, want: []string{"fdb0::/12", "fde0::/12"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := network(t, c.conf).Pick(c.prefer, slices.Values(c.taken))
			if c.err != nil {
				require.ErrorIs(t, err, c.err)
				return
			}
			require.NoError(t, err)
			assert.Contains(t, c.want, got.String())
		})
	}
}

func TestPickSaysWhatIsFull(t *testing.T) {
	n := network(t, `{"Network": "10.244.0.0/16", "SubnetMin": "10.244.1.0", "SubnetMax": "10.244.4.0"}`)
	_, err := n.Pick(nil, slices.Values([]subnet.Prefixes{prefixes(t, "10.244.0.0/16")}))
	assert.EqualError(t, err, "no free subnet: every /24 from 10.244.1.0 to 10.244.4.0 is taken (4)")
}

// TestPickIsFair: nodes that start together must not all reach for the same subnet.
func TestPickIsFair(t *testing.T) {
	n := network(t, `{"Network": "10.244.0.0/16", "SubnetMin": "10.244.1.0", "SubnetMax": "10.244.8.0"}`)
	taken := []subnet.Prefixes{prefixes(t, "10.244.2.0/23"), prefixes(t, "10.244.7.0/24")}
	const tries, free = 5000, 5
	count := map[string]int{}
	for range tries {
		p, err := n.Pick(nil, slices.Values(taken))
		require.NoError(t, err)
		count[p.String()]++
	}
	require.Len(t, count, free)
	for p, n := range count {
		assert.InDelta(t, tries/free, n, 250, p) // 8 sigma
	}
}

// TestPickModel compares Pick with a walk over all subnets, in both families and over whatever is taken.
func TestPickModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base, total := netip.MustParseAddr("10.244.0.0"), 32
		if rapid.Bool().Draw(t, "v6") {
			base, total = netip.MustParseAddr("fd00:244::"), 128
		}
		length := rapid.IntRange(total-24, total-2).Draw(t, "length")
		within, err := base.Prefix(length - rapid.IntRange(2, 6).Draw(t, "bits"))
		require.NoError(t, err)
		r := subnet.Range{Network: within, SubnetLen: length}
		all := slices.Collect(r.All())
		first := rapid.IntRange(0, len(all)-1).Draw(t, "first")
		last := rapid.IntRange(first, len(all)-1).Draw(t, "last")
		r.Min, r.Max = all[first].Addr(), all[last].Addr()
		all = all[first : last+1]
		require.Equal(t, all, slices.Collect(r.All()))

		var taken []subnet.Prefixes
		add := func(p netip.Prefix) {
			if p.Addr().Is4() {
				taken = append(taken, subnet.Prefixes{V4: p})
			} else {
				taken = append(taken, subnet.Prefixes{V6: p})
			}
		}
		for range rapid.IntRange(0, 2*len(all)).Draw(t, "taken") {
			p := rapid.SampledFrom(all).Draw(t, "near")
			bits := max(1, min(total, p.Bits()+rapid.SampledFrom([]int{0, 0, 0, 0, -1, -3, 1, 2}).Draw(t, "longer")))
			p, err = p.Addr().Prefix(bits)
			require.NoError(t, err)
			add(p)
		}
		add(netip.MustParsePrefix("192.0.2.0/24"))
		add(netip.MustParsePrefix("2001:db8::/32"))

		n := &subnet.Network{V4: r}
		if total == 128 {
			n = &subnet.Network{V6: r}
		}
		free := func(p netip.Prefix) bool {
			return !slices.ContainsFunc(taken, func(x subnet.Prefixes) bool { return p.Overlaps(x.V4) || p.Overlaps(x.V6) })
		}
		got, err := n.Pick(nil, slices.Values(taken))
		if !slices.ContainsFunc(all, free) {
			require.ErrorIs(t, err, subnet.ErrExhausted)
			return
		}
		require.NoError(t, err)
		for p := range got.All() {
			require.Contains(t, all, p)
			require.True(t, free(p))
			require.True(t, r.Contains(p))
		}
		require.True(t, n.Fits(got))
	})
}

func TestRange(t *testing.T) {
	r := subnet.Range{Network: netip.MustParsePrefix("10.244.0.0/22")}
	assert.Equal(t, []netip.Prefix{
		netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("10.244.2.0/24"), netip.MustParsePrefix("10.244.3.0/24"),
	}, slices.Collect(r.All()))
	for p := range r.All() { // may be left early
		assert.True(t, r.Contains(p))
		break
	}
	for _, no := range []string{"10.244.0.0/24", "10.244.1.0/25", "10.244.1.1/24", "10.245.1.0/24", "fd00::/64", "0.0.0.0/0"} {
		assert.False(t, r.Contains(netip.MustParsePrefix(no)), no)
	}
	assert.False(t, r.Contains(netip.Prefix{}))

	// What makes no sense has no subnets, and does no harm.
	for _, bad := range []subnet.Range{
		{}, {SubnetLen: 24}, {Network: netip.MustParsePrefix("10.244.0.0/16"), SubnetLen: 99}, {Network: netip.MustParsePrefix("10.244.0.0/16"), SubnetLen: -3},
		{Network: netip.MustParsePrefix("10.244.0.0/31")}, {Network: netip.MustParsePrefix("10.244.0.0/16"), Min: netip.MustParseAddr("fd00::")},
		{Network: netip.MustParsePrefix("10.244.0.0/16"), Max: netip.MustParseAddr("10.244.0.1")},
	} {
		assert.Empty(t, slices.Collect(bad.All()), "%+v", bad)
		assert.False(t, bad.Contains(netip.MustParsePrefix("10.244.1.0/24")))
	}

	end := subnet.Range{Network: netip.MustParsePrefix("ffff::/16"), SubnetLen: 18}
	assert.Len(t, slices.Collect(end.All()), 3, "does not wrap around at the end of all addresses")
	assert.Len(t, slices.Collect(subnet.Range{Network: netip.MustParsePrefix("255.255.0.0/16")}.All()), 255)
}

func BenchmarkPick(b *testing.B) {
	s := snapshot(5000)
	for b.Loop() {
		if _, err := s.Network.Pick(nil, func(yield func(subnet.Prefixes) bool) {
			for _, l := range s.Leases {
				if !yield(l.Prefixes) {
					return
				}
			}
		}); err != nil {
			b.Fatal(err)
		}
	}
}
