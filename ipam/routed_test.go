package ipam

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
)

func TestRoutedRangesGiveEveryAddress(t *testing.T) {
	p := open(t, Config{Sets: [][]Range{
		{{Prefix: prefixes("10.244.1.0/30")[0], Routed: true, Gateway: netip.MustParseAddr("169.254.1.1")}},
		{{Prefix: prefixes("fd00:1::/126")[0], Routed: true}},
	}})
	first, err := p.Allocate(t.Context(), pod("first"))
	require.NoError(t, err)
	assert.Equal(t, []Address{
		{netip.MustParsePrefix("10.244.1.0/32"), netip.MustParseAddr("169.254.1.1")},
		{netip.MustParsePrefix("fd00:1::/128"), netip.Addr{}},
	}, first.Addresses)
	again, err := p.Lookup(t.Context(), pod("first"))
	require.NoError(t, err)
	assert.Equal(t, first, again)
	assert.Equal(t, []string{"10.244.1.1 fd00:1::1", "10.244.1.2 fd00:1::2", "10.244.1.3 fd00:1::3"}, exhaust(t, p))
	verify(t, p)

	one := open(t, Config{Sets: [][]Range{{{Prefix: prefixes("10.244.1.9/32")[0], Routed: true}}}})
	assert.Equal(t, []string{"10.244.1.9"}, exhaust(t, one))
}

func TestInUse(t *testing.T) {
	p := open(t, Config{Prefixes: prefixes("10.244.1.0/24"), Grace: time.Hour})
	now := uint64(time.Hour)
	p.now = func() uint64 { return now }
	used := func(text string) bool {
		t.Helper()
		used, err := p.InUse(t.Context(), netip.MustParsePrefix(text))
		require.NoError(t, err)
		return used
	}
	assert.False(t, used("0.0.0.0/0"), "the file is new")
	for _, bad := range []netip.Prefix{{}, netip.MustParsePrefix("::ffff:10.244.1.0/120")} {
		_, err := p.InUse(t.Context(), bad)
		require.ErrorIs(t, err, podweft.ErrInvalid, "not in use would be a lie")
	}
	a, err := p.Allocate(t.Context(), pod("a"))
	require.NoError(t, err)
	assert.True(t, used("10.244.1.0/26"))
	assert.False(t, used("10.244.1.64/26"))
	require.NoError(t, p.Release(t.Context(), a.Owner))
	assert.True(t, used("10.244.1.0/26"), "it is kept back")
	now += uint64(time.Hour)
	assert.False(t, used("10.244.1.0/26"))
}
