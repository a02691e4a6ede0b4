package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
)

// storePath names a store file in a directory of the test.
func storePath(t testing.TB) string { return filepath.Join(t.TempDir(), "node", "ipam") }

func open(t testing.TB, cfg Config) *Pool {
	t.Helper()
	if cfg.Path == "" {
		cfg.Path = storePath(t)
	}
	p, err := Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func prefixes(texts ...string) (ps []netip.Prefix) {
	for _, text := range texts {
		ps = append(ps, netip.MustParsePrefix(text))
	}
	return ps
}

func pod(name string) Owner { return Owner{Network: "pods", Container: name, Interface: "eth0"} }

// addrs is an allocation as text, "10.244.1.2 fd00::2".
func addrs(a Allocation) string {
	text := ""
	for i, held := range a.Addresses {
		if i > 0 {
			text += " "
		}
		text += held.Prefix.Addr().String()
	}
	return text
}

// exhaust allocates until there is nothing left, and returns what it got, in order.
func exhaust(t *testing.T, p *Pool) (got []string) {
	t.Helper()
	for i := range 1000 {
		a, err := p.Allocate(t.Context(), pod(fmt.Sprintf("fill-%d", i)))
		if err != nil {
			require.ErrorIs(t, err, ErrExhausted)
			return got
		}
		got = append(got, addrs(a))
	}
	t.Fatal("never exhausted")
	return nil
}

func TestAllocateGivesEveryUsableAddressOnce(t *testing.T) {
	addr := netip.MustParseAddr
	tests := []struct {
		name string
		cfg  Config
		want []string
	}{
		{
			name: "v4 without network, gateway and broadcast address",
			cfg:  Config{Prefixes: prefixes("10.244.1.0/29")},
			want: []string{"10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5", "10.244.1.6"},
		},
		{
			name: "v6 without the anycast address and the gateway",
			cfg:  Config{Prefixes: prefixes("fd00:1::/126")},
			want: []string{"fd00:1::2", "fd00:1::3"},
		},
		{
			name: "dual-stack ends with the smaller set",
			cfg:  Config{Prefixes: prefixes("10.244.1.0/30", "fd00:1::/64")},
			want: []string{"10.244.1.2 fd00:1::2"},
		},
		{
			name: "reserved",
			cfg:  Config{Prefixes: prefixes("10.244.1.0/29"), Reserved: prefixes("10.244.1.4/31", "192.0.2.0/24", "::/0")},
			want: []string{"10.244.1.2", "10.244.1.3", "10.244.1.6"},
		},
		{
			name: "a part of the subnet, and a gateway in it",
			cfg: Config{Sets: [][]Range{{{
				Prefix: netip.MustParsePrefix("10.244.1.0/24"),
				First:  addr("10.244.1.20"), Last: addr("10.244.1.22"), Gateway: addr("10.244.1.21"),
			}}}},
			want: []string{"10.244.1.20", "10.244.1.22"},
		},
		{
			name: "a gateway outside leaves the first host address",
			cfg:  Config{Sets: [][]Range{{{Prefix: netip.MustParsePrefix("10.244.1.0/30"), Gateway: addr("169.254.1.1")}}}},
			want: []string{"10.244.1.1", "10.244.1.2"},
		},
		{
			name: "one range after the other",
			cfg: Config{Sets: [][]Range{{
				{Prefix: netip.MustParsePrefix("10.244.1.0/30")}, {Prefix: netip.MustParsePrefix("10.9.0.0/29"), Last: addr("10.9.0.3")},
			}}},
			want: []string{"10.244.1.2", "10.9.0.2", "10.9.0.3"},
		},
		{
			name: "a gateway that lies in another set",
			cfg: Config{Sets: [][]Range{
				{{Prefix: netip.MustParsePrefix("10.244.1.0/30"), Gateway: addr("10.244.2.2")}},
				{{Prefix: netip.MustParsePrefix("10.244.2.0/29")}},
			}},
			want: []string{"10.244.1.1 10.244.2.3", "10.244.1.2 10.244.2.4"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := open(t, tt.cfg)
			assert.Equal(t, tt.want, exhaust(t, p))
			verify(t, p)
		})
	}
}

func TestAllocationCarriesSubnetAndGateway(t *testing.T) {
	p := open(t, Config{Prefixes: prefixes("10.244.1.0/24", "fd00:1::/64")})
	before := time.Now()
	a, err := p.Allocate(t.Context(), pod("a"))
	require.NoError(t, err)

	want := []Address{
		{Prefix: netip.MustParsePrefix("10.244.1.2/24"), Gateway: netip.MustParseAddr("10.244.1.1")},
		{Prefix: netip.MustParsePrefix("fd00:1::2/64"), Gateway: netip.MustParseAddr("fd00:1::1")},
	}
	assert.Equal(t, want, a.Addresses)
	assert.Equal(t, netip.MustParseAddr("10.244.1.2"), a.Addr())
	assert.WithinRange(t, a.Since, before.Add(-time.Second), time.Now().Add(time.Second))

	again, err := p.Allocate(t.Context(), pod("a"))
	require.NoError(t, err)
	assert.Equal(t, a, again, "the same owner gets the same answer")
	found, err := p.Lookup(t.Context(), pod("a"))
	require.NoError(t, err)
	assert.Equal(t, a, found)
	all, err := p.All(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []Allocation{a}, all)
}

func TestOwnersDifferByEachField(t *testing.T) {
	p := open(t, Config{Prefixes: prefixes("10.244.1.0/24")})
	owners := []Owner{{"n", "c", "i"}, {"m", "c", "i"}, {"n", "d", "i"}, {"n", "c", "j"}, {"nc", "i", ""}, {"", "nci", ""}}
	got := map[netip.Addr]Owner{}
	for _, o := range owners {
		a, err := p.Allocate(t.Context(), o)
		require.NoError(t, err)
		require.NotContains(t, got, a.Addr())
		got[a.Addr()] = o
	}
	for addr, o := range got {
		a, err := p.Lookup(t.Context(), o)
		require.NoError(t, err)
		assert.Equal(t, addr, a.Addr())
	}
}

func TestRelease(t *testing.T) {
	p := open(t, Config{Prefixes: prefixes("10.244.1.0/29")})
	require.NoError(t, p.Release(t.Context(), pod("never seen")))
	exhaust(t, p)

	require.NoError(t, p.Release(t.Context(), pod("fill-1")))
	require.NoError(t, p.Release(t.Context(), pod("fill-1")), "twice is no error")
	_, err := p.Lookup(t.Context(), pod("fill-1"))
	require.ErrorIs(t, err, ErrNotFound)
	assert.EqualError(t, err, "look up pods/fill-1/eth0: holds no address")

	a, err := p.Allocate(t.Context(), pod("next"))
	require.NoError(t, err)
	assert.Equal(t, "10.244.1.3", addrs(a))
	verify(t, p)
}

func TestAddressesRotate(t *testing.T) {
	p := open(t, Config{Prefixes: prefixes("10.244.1.0/29", "fd00:1::/64")})
	var got []string
	for range 7 {
		a, err := p.Allocate(t.Context(), pod("a"))
		require.NoError(t, err)
		require.NoError(t, p.Release(t.Context(), pod("a")))
		got = append(got, a.Addr().String())
	}
	want := []string{"10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5", "10.244.1.6", "10.244.1.2", "10.244.1.3"}
	assert.Equal(t, want, got)
}

func TestAllOrNothing(t *testing.T) {
	p := open(t, Config{Prefixes: prefixes("10.244.1.0/24", "fd00:1::/126")})
	assert.Equal(t, []string{"10.244.1.2 fd00:1::2", "10.244.1.3 fd00:1::3"}, exhaust(t, p))
	_, err := p.Allocate(t.Context(), pod("late"))
	assert.EqualError(t, err, "allocate for pods/late/eth0: fd00:1::/126: no free address: all 2 are taken")

	usage, err := p.Usage(t.Context())
	require.NoError(t, err)
	require.Len(t, usage, 2)
	assert.Equal(t, []int{253, 2, 2, 2}, []int{usage[0].Total, usage[0].Taken, usage[1].Total, usage[1].Taken})
	assert.Equal(t, netip.MustParseAddr("fd00:1::1"), usage[1].Ranges[0].Gateway)
	verify(t, p)
}

func TestWantedAddress(t *testing.T) {
	cfg := Config{Prefixes: prefixes("10.244.1.0/24", "fd00:1::/64"), Reserved: prefixes("10.244.1.77/32", "fd00:1:0:0:ffff::/80")}
	tests := []struct {
		name string
		want []string
		got  string
		is   error
		text string
	}{
		{name: "one family", want: []string{"10.244.1.9"}, got: "10.244.1.9 fd00:1::3"},
		{name: "both, in any order", want: []string{"fd00:1::9", "10.244.1.9"}, got: "10.244.1.9 fd00:1::9"},
		{name: "v4 in v6 form", want: []string{"::ffff:10.244.1.9"}, got: "10.244.1.9 fd00:1::3"},
		{name: "beyond the window", want: []string{"fd00:1::1:2:3:4"}, got: "10.244.1.3 fd00:1::1:2:3:4"},
		{
			name: "taken", want: []string{"10.244.1.2"}, is: ErrTaken,
			text: "allocate for pods/b/eth0: 10.244.1.2: address is taken by pods/a/eth0",
		},
		{
			name: "taken beyond the window", want: []string{"fd00:1::a:a:a:a"}, is: ErrTaken,
			text: "allocate for pods/b/eth0: fd00:1::a:a:a:a: address is taken by pods/far/eth0",
		},
		{
			name: "outside", want: []string{"10.244.2.9"}, is: podweft.ErrInvalid,
			text: "allocate for pods/b/eth0: want: 10.244.2.9 is not in the ranges " +
				"10.244.1.1-10.244.1.254 fd00:1::1-fd00:1::ffff:ffff:ffff:ffff",
		},
		{name: "network's", want: []string{"10.244.1.0"}, is: podweft.ErrInvalid},
		{name: "broadcast", want: []string{"10.244.1.255"}, is: podweft.ErrInvalid},
		{name: "anycast", want: []string{"fd00:1::"}, is: podweft.ErrInvalid},
		{
			name: "gateway", want: []string{"10.244.1.1"}, is: podweft.ErrInvalid,
			text: "allocate for pods/b/eth0: want: 10.244.1.1 is a gateway or reserved",
		},
		{name: "reserved", want: []string{"10.244.1.77"}, is: podweft.ErrInvalid},
		{name: "reserved beyond the window", want: []string{"fd00:1::ffff:0:0:1"}, is: podweft.ErrInvalid},
		{name: "zone", want: []string{"fd00:1::9%eth0"}, is: podweft.ErrInvalid},
		{
			name: "two of one set", want: []string{"10.244.1.9", "10.244.1.10"}, is: podweft.ErrInvalid,
			text: "allocate for pods/b/eth0: want: 10.244.1.10 is the second one wanted of 10.244.1.0/24",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := cfg
			cfg.Path = storePath(t)
			p := open(t, cfg)
			_, err := p.Allocate(t.Context(), pod("a"))
			require.NoError(t, err)
			_, err = p.Allocate(t.Context(), pod("far"), netip.MustParseAddr("10.244.1.100"), netip.MustParseAddr("fd00:1::a:a:a:a"))
			require.NoError(t, err)

			var want []netip.Addr
			for _, w := range tt.want {
				want = append(want, netip.MustParseAddr(w))
			}
			a, err := p.Allocate(t.Context(), pod("b"), want...)
			if tt.is != nil {
				require.ErrorIs(t, err, tt.is)
				if tt.text != "" {
					assert.EqualError(t, err, tt.text)
				}
				_, err = p.Lookup(t.Context(), pod("b"))
				require.ErrorIs(t, err, ErrNotFound, "nothing is held after an error")
				verify(t, p)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.got, addrs(a))

			again, err := p.Allocate(t.Context(), pod("b"), want...)
			require.NoError(t, err)
			assert.Equal(t, a, again)
			_, err = p.Allocate(t.Context(), pod("b"), netip.MustParseAddr("10.244.1.50"))
			require.ErrorIs(t, err, podweft.ErrInvalid, "the owner holds another one")
			verify(t, p)
			require.NoError(t, p.Release(t.Context(), pod("b")))
			_, err = p.Allocate(t.Context(), pod("c"), want...)
			require.NoError(t, err, "free again")
			verify(t, p)
		})
	}
}

// An address wanted by name is passed over later, and a full set can still be left and entered.
func TestWantedAddressIsNotGivenTwice(t *testing.T) {
	p := open(t, Config{Prefixes: prefixes("10.244.1.0/29")})
	_, err := p.Allocate(t.Context(), pod("static"), netip.MustParseAddr("10.244.1.3"))
	require.NoError(t, err)
	assert.Equal(t, []string{"10.244.1.2", "10.244.1.4", "10.244.1.5", "10.244.1.6"}, exhaust(t, p))
}

// Some owners may have addresses of parts of the ranges only, at both ends of a set and in the middle of a range.
func TestWithin(t *testing.T) {
	two := []Range{{Prefix: netip.MustParsePrefix("10.0.0.0/29"), Routed: true}, {Prefix: netip.MustParsePrefix("10.0.1.0/29"), Routed: true}}
	p := open(t, Config{Sets: [][]Range{two, {{Prefix: netip.MustParsePrefix("fd00::/126"), Routed: true}}}})
	narrow := p.Within(prefixes("10.0.1.0/30", "192.0.2.0/24", "fd00::/125")...)
	usage, err := narrow.Usage(t.Context())
	require.NoError(t, err)
	all, err := p.Usage(t.Context())
	require.NoError(t, err)
	assert.Equal(t, all[1].Total, usage[1].Total, "all that there is")

	_, err = narrow.Allocate(t.Context(), pod("wanting"), netip.MustParseAddr("10.0.0.3"))
	require.EqualError(t, err, "allocate for pods/wanting/eth0: want: 10.0.0.3 is not for this owner")
	require.ErrorIs(t, err, podweft.ErrInvalid)
	var got []string
	for i := range usage[0].Total {
		a, err := narrow.Allocate(t.Context(), pod(fmt.Sprintf("narrow-%d", i)))
		require.NoError(t, err)
		assert.True(t, netip.MustParsePrefix("10.0.1.0/30").Contains(a.Addr()), addrs(a))
		got = append(got, addrs(a))
	}
	_, err = narrow.Allocate(t.Context(), pod("one more"))
	require.ErrorIs(t, err, ErrExhausted)
	usage, err = narrow.Usage(t.Context())
	require.NoError(t, err)
	assert.Equal(t, usage[0].Total, usage[0].Taken)

	again, err := p.Allocate(t.Context(), pod("narrow-0"))
	require.NoError(t, err)
	assert.Equal(t, got[0], addrs(again), "one file for both")
	require.NoError(t, p.Release(t.Context(), pod("narrow-1")))
	wide, err := p.Allocate(t.Context(), pod("wide"), netip.MustParseAddr("10.0.0.3"))
	require.NoError(t, err)
	assert.Equal(t, netip.MustParseAddr("10.0.0.3"), wide.Addr())
	kept, err := narrow.Allocate(t.Context(), pod("wide"))
	require.NoError(t, err)
	assert.Equal(t, wide, kept, "what somebody holds stays his")
	_, err = p.Within().Allocate(t.Context(), pod("nobody"))
	require.ErrorIs(t, err, ErrExhausted)
	assert.ErrorContains(t, err, "no free address: none of it is for this owner")
	_, err = p.Within().Within(prefixes("0.0.0.0/0")...).Allocate(t.Context(), pod("nobody"))
	require.ErrorIs(t, err, ErrExhausted, "who may have nothing may have no part of it")
	verify(t, p)

	both := p.Within(prefixes("10.0.0.0/30", "10.0.1.4/30", "fd00::/64")...).Within(prefixes("10.0.1.0/24", "fd00::2/127")...)
	usage, err = both.Usage(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 4, usage[0].Total)
	assert.Equal(t, 2, usage[1].Total)
	for _, outside := range []string{"10.0.0.1", "10.0.1.0", "fd00::1"} {
		_, err = both.Allocate(t.Context(), pod("wanting"), netip.MustParseAddr(outside))
		require.ErrorContains(t, err, outside+" is not for this owner")
	}
}

func TestLargePrefixHasWindow(t *testing.T) {
	p := open(t, Config{Prefixes: prefixes("10.0.0.0/12", "fd00:1::/64")})
	usage, err := p.Usage(t.Context())
	require.NoError(t, err)
	assert.Equal(t, Window-1, usage[0].Total, "all but the gateway")
	assert.Equal(t, Window-1, usage[1].Total)
	last, err := p.Allocate(t.Context(), pod("last"), netip.MustParseAddr("10.1.0.0"), netip.MustParseAddr("fd00:1::1:0"))
	require.NoError(t, err)
	beyond, err := p.Allocate(t.Context(), pod("beyond"), netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00:1::1:1"))
	require.NoError(t, err)
	usage, err = p.Usage(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 1, usage[0].Taken, "%s is in the window, %s is not", addrs(last), addrs(beyond))
	verify(t, p)
}

func TestGrace(t *testing.T) {
	cfg := Config{Path: storePath(t), Prefixes: prefixes("10.244.1.0/29"), Grace: time.Minute}
	p := open(t, cfg)
	now := uint64(time.Hour)
	p.now = func() uint64 { return now }
	exhaust(t, p)
	for _, name := range []string{"fill-3", "fill-1", "fill-0"} {
		require.NoError(t, p.Release(t.Context(), pod(name)))
		now += uint64(time.Second)
		verify(t, p)
	}
	_, err := p.Allocate(t.Context(), pod("early"))
	require.ErrorIs(t, err, ErrExhausted)
	usage, err := p.Usage(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 5, usage[0].Taken, "what is kept back counts")

	static, err := p.Allocate(t.Context(), pod("static"), netip.MustParseAddr("10.244.1.3"))
	require.NoError(t, err, "asked for by name it is given at once")
	assert.Equal(t, "10.244.1.3", addrs(static))
	verify(t, p)

	now += uint64(time.Minute) - 3*uint64(time.Second)
	first, err := p.Allocate(t.Context(), pod("first"))
	require.NoError(t, err)
	assert.Equal(t, "10.244.1.5", addrs(first), "the one released first")
	_, err = p.Allocate(t.Context(), pod("second"))
	require.ErrorIs(t, err, ErrExhausted)
	now += 10 * uint64(time.Second)
	second, err := p.Allocate(t.Context(), pod("second"))
	require.NoError(t, err)
	assert.Equal(t, "10.244.1.2", addrs(second))
	verify(t, p)
}

// An owner that comes back within the grace is a new one.
func TestGraceHoldsWholeAllocation(t *testing.T) {
	p := open(t, Config{Prefixes: prefixes("10.244.1.0/24", "fd00:1::/64"), Grace: time.Minute})
	for _, want := range []string{"10.244.1.2 fd00:1::2", "10.244.1.3 fd00:1::3"} {
		a, err := p.Allocate(t.Context(), pod("a"))
		require.NoError(t, err)
		assert.Equal(t, want, addrs(a))
		require.NoError(t, p.Release(t.Context(), pod("a")))
	}
	// Both of one record, and the two families of different records.
	_, err := p.Allocate(t.Context(), pod("b"), netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00:1::3"))
	require.NoError(t, err)
	_, err = p.Allocate(t.Context(), pod("c"), netip.MustParseAddr("10.244.1.3"), netip.MustParseAddr("fd00:1::2"))
	require.NoError(t, err)
	verify(t, p)
}

func TestRangesChange(t *testing.T) {
	cfg := Config{Path: storePath(t), Prefixes: prefixes("10.244.1.0/29")}
	before := open(t, cfg)
	var old []Allocation
	for _, name := range []string{"a", "b", "c"} {
		a, err := before.Allocate(t.Context(), pod(name))
		require.NoError(t, err)
		old = append(old, a)
	}
	require.NoError(t, before.Release(t.Context(), pod("b")))

	cfg.Prefixes = prefixes("10.244.2.0/30", "fd00:2::/64")
	moved := open(t, cfg)
	d, err := moved.Allocate(t.Context(), pod("d"))
	require.NoError(t, err)
	assert.Equal(t, "10.244.2.2 fd00:2::2", addrs(d))
	a, err := moved.Allocate(t.Context(), pod("a"))
	require.NoError(t, err)
	assert.Equal(t, old[0], a, "who holds addresses keeps them, with the subnet and gateway of then")
	verify(t, moved)

	// The pool that was opened before sees all of it, and can release.
	require.NoError(t, before.Release(t.Context(), pod("d")))
	require.NoError(t, before.Release(t.Context(), pod("a")))
	verify(t, moved)

	// Back in the first ranges, what is still held there is not given again.
	cfg.Prefixes = prefixes("10.244.0.0/21")
	cfg.Reserved = prefixes("10.244.0.0/24")
	wide := open(t, cfg)
	for _, want := range []string{"10.244.1.0", "10.244.1.1", "10.244.1.2", "10.244.1.3", "10.244.1.5"} {
		a, err := wide.Allocate(t.Context(), pod("new "+want))
		require.NoError(t, err)
		assert.Equal(t, want, addrs(a))
	}
	verify(t, wide)
}

func TestRangesChangeKeepsGrace(t *testing.T) {
	cfg := Config{Path: storePath(t), Prefixes: prefixes("10.244.1.0/29"), Grace: time.Hour}
	p := open(t, cfg)
	exhaust(t, p)
	require.NoError(t, p.Release(t.Context(), pod("fill-2")))
	require.NoError(t, p.Release(t.Context(), pod("fill-0")))
	cfg.Prefixes = prefixes("10.244.1.0/28")
	wider := open(t, cfg)
	a, err := wider.Allocate(t.Context(), pod("next"))
	require.NoError(t, err)
	assert.Equal(t, "10.244.1.7", addrs(a))
	verify(t, wider)
}

func TestRebootVoidsEverything(t *testing.T) {
	for _, grace := range []time.Duration{0, time.Hour} {
		t.Run(fmt.Sprint("grace ", grace), func(t *testing.T) {
			cfg := Config{Path: storePath(t), Prefixes: prefixes("10.244.1.0/29"), BootID: "first", Grace: grace}
			p := open(t, cfg)
			exhaust(t, p)
			require.NoError(t, p.Release(t.Context(), pod("fill-0")))

			cfg.BootID = "second"
			p = open(t, cfg)
			all, err := p.All(t.Context())
			require.NoError(t, err)
			assert.Empty(t, all)
			require.NoError(t, p.Release(t.Context(), pod("fill-1")))
			assert.Len(t, exhaust(t, p), 5)
			verify(t, p)
		})
	}
}

func TestDefaultBootIDIsTheKernels(t *testing.T) {
	cfg := Config{Path: storePath(t), Prefixes: prefixes("10.244.1.0/29")}
	_, err := open(t, cfg).Allocate(t.Context(), pod("a"))
	require.NoError(t, err)
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	cfg.BootID = string(id[:len(id)-1])
	_, err = open(t, cfg).Lookup(t.Context(), pod("a"))
	require.NoError(t, err)
}

// For DEL, when nobody knows the node's prefixes any more.
func TestPoolWithoutRanges(t *testing.T) {
	cfg := Config{Path: storePath(t)}
	early := open(t, cfg)
	require.NoError(t, early.Release(t.Context(), pod("a")))
	_, err := early.Lookup(t.Context(), pod("a"))
	require.ErrorIs(t, err, ErrNotFound)
	_, err = early.Allocate(t.Context(), pod("a"))
	require.ErrorIs(t, err, podweft.ErrInvalid)
	usage, err := early.Usage(t.Context())
	require.NoError(t, err)
	assert.Empty(t, usage)

	cfg.Prefixes = prefixes("10.244.1.0/29")
	p := open(t, cfg)
	_, err = p.Allocate(t.Context(), pod("a"))
	require.NoError(t, err)
	usage, err = early.Usage(t.Context())
	require.NoError(t, err)
	assert.Empty(t, usage)
	require.NoError(t, early.Release(t.Context(), pod("a")))
	_, err = p.Lookup(t.Context(), pod("a"))
	require.ErrorIs(t, err, ErrNotFound)
	verify(t, p)
}

func TestCollect(t *testing.T) {
	p := open(t, Config{Prefixes: prefixes("10.244.1.0/24")})
	for _, name := range []string{"live", "dead", "reborn", "silent"} {
		_, err := p.Allocate(t.Context(), pod(name))
		require.NoError(t, err)
	}

	boom := errors.New("the runtime does not answer")
	freed, err := p.Collect(t.Context(), func(context.Context, []Allocation) ([]Owner, error) { return []Owner{pod("live")}, boom })
	require.ErrorIs(t, err, boom)
	assert.Empty(t, freed, "an error frees nothing")

	freed, err = p.Collect(t.Context(), func(ctx context.Context, held []Allocation) ([]Owner, error) {
		assert.Len(t, held, 4)
		require.NoError(t, p.Release(ctx, pod("reborn")))
		_, err := p.Allocate(ctx, pod("reborn"))
		require.NoError(t, err)
		_, err = p.Allocate(ctx, pod("newborn"))
		require.NoError(t, err)
		return []Owner{pod("dead"), pod("dead"), pod("reborn"), pod("newborn"), pod("unknown")}, nil
	})
	require.NoError(t, err)
	require.Len(t, freed, 1)
	assert.Equal(t, pod("dead"), freed[0].Owner)
	for _, name := range []string{"live", "reborn", "newborn", "silent"} {
		_, err := p.Lookup(t.Context(), pod(name))
		require.NoError(t, err, "%s was not proved dead when its allocation was noted", name)
	}
	verify(t, p)
}

func TestFileIsRemoved(t *testing.T) {
	cfg := Config{Path: storePath(t), Prefixes: prefixes("10.244.1.0/29")}
	a, b := open(t, cfg), open(t, cfg)
	_, err := a.Allocate(t.Context(), pod("before"))
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(filepath.Dir(cfg.Path)))

	_, err = a.Allocate(t.Context(), pod("a"))
	require.NoError(t, err)
	got, err := b.Allocate(t.Context(), pod("b"))
	require.NoError(t, err)
	assert.Equal(t, "10.244.1.3", addrs(got), "both use the new file")
	_, err = b.Lookup(t.Context(), pod("before"))
	require.ErrorIs(t, err, ErrNotFound)
}

func TestForeignFileIsLeftAlone(t *testing.T) {
	tests := map[string]string{
		"text": "10.244.1.2\n", "zeros": string(make([]byte, 8192)), "one byte": "x",
	}
	for name, content := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Path: filepath.Join(t.TempDir(), "ipam"), Prefixes: prefixes("10.244.1.0/29")}
			require.NoError(t, os.WriteFile(cfg.Path, []byte(content), 0o600))
			_, err := Open(cfg)
			require.ErrorIs(t, err, ErrDamaged)
			assert.EqualError(t, err, "open address store: "+cfg.Path+
				": block 0: store is damaged or foreign (remove it when no pod runs, or reboot)")
			after, err := os.ReadFile(cfg.Path)
			require.NoError(t, err)
			assert.Equal(t, content, string(after))
		})
	}
}

// A process that was killed while it made a new file leaves it under its passing name.
func TestLeftoverOfDeadCreator(t *testing.T) {
	cfg := Config{Path: filepath.Join(t.TempDir(), "ipam"), Prefixes: prefixes("10.244.1.0/29")}
	require.NoError(t, os.WriteFile(cfg.Path+".new", []byte("half"), 0o600))
	p := open(t, cfg)
	assert.Len(t, exhaust(t, p), 5)
	assert.NoFileExists(t, cfg.Path+".new")
}

func TestClose(t *testing.T) {
	p, err := Open(Config{Path: storePath(t), Prefixes: prefixes("10.244.1.0/29")})
	require.NoError(t, err)
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
	_, err = p.Allocate(t.Context(), pod("a"))
	require.ErrorIs(t, err, os.ErrClosed)
	require.ErrorIs(t, p.Release(t.Context(), pod("a")), os.ErrClosed)
}

// Somebody who stands still with the lock takes nobody with him.
func TestWaitingEndsWithContext(t *testing.T) {
	cfg := Config{Path: storePath(t), Prefixes: prefixes("10.244.1.0/29")}
	p, frozen := open(t, cfg), open(t, cfg)
	_, err := p.Allocate(t.Context(), pod("a"))
	require.NoError(t, err)
	require.NoError(t, frozen.store.lock(t.Context()))

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = p.Allocate(ctx, pod("b"))
	require.ErrorIs(t, err, context.DeadlineExceeded)

	done := make(chan error, 1)
	go func() {
		_, err := p.Allocate(t.Context(), pod("b"))
		done <- err
	}()
	frozen.store.unlock()
	require.NoError(t, <-done)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, p.Release(ended, pod("b")), context.Canceled)
}

func TestManyGoroutines(t *testing.T) {
	cfg := Config{Path: storePath(t), Prefixes: prefixes("10.244.0.0/22", "fd00:1::/64")}
	pools := []*Pool{open(t, cfg), open(t, cfg)} // two of one file in one process
	const workers, each = 16, 20
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				o := pod(fmt.Sprintf("%d-%d", w, i))
				_, err := pools[i%2].Allocate(t.Context(), o)
				assert.NoError(t, err)
				if i%4 == 0 {
					assert.NoError(t, pools[w%2].Release(t.Context(), o))
				}
			}
		})
	}
	wg.Wait()
	all, err := pools[0].All(t.Context())
	require.NoError(t, err)
	assert.Len(t, all, workers*each*3/4)
	verify(t, pools[1])
}

func TestOwnerIsChecked(t *testing.T) {
	p := open(t, Config{Prefixes: prefixes("10.244.1.0/29")})
	long := string(make([]byte, maxOwner))
	tests := []struct {
		name  string
		owner Owner
		ok    bool
	}{
		{name: "no container", owner: Owner{Network: "pods", Interface: "eth0"}},
		{name: "too long", owner: Owner{Network: "p", Container: long}},
		{name: "as long as can be", owner: Owner{Container: long}, ok: true},
		{name: "container alone", owner: Owner{Container: "a"}, ok: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := p.Allocate(t.Context(), tt.owner)
			if !tt.ok {
				require.ErrorIs(t, err, podweft.ErrInvalid)
				return
			}
			require.NoError(t, err)
			a, err := p.Lookup(t.Context(), tt.owner)
			require.NoError(t, err)
			assert.Equal(t, tt.owner, a.Owner)
		})
	}
}
