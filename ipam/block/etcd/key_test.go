package etcd

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"pgregory.net/rapid"
)

var named = keys{"/podweft/blocks/"}

func TestKeys(t *testing.T) {
	tests := []struct{ name, prefix, want string }{
		{"IPv4", "10.244.3.64/26", "/podweft/blocks/ipv4/010.244.003.064-026"},
		{"IPv6", "fd00::40/122", "/podweft/blocks/ipv6/fd00:0000:0000:0000:0000:0000:0000:0040-122"},
		{"all", "0.0.0.0/0", "/podweft/blocks/ipv4/000.000.000.000-000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := netip.MustParsePrefix(tt.prefix)
			key := named.block(p)
			assert.Equal(t, tt.want, key)
			back, ok := named.parse(key)
			assert.True(t, ok)
			assert.Equal(t, p, back)
		})
	}
	for _, key := range []string{
		"", "hello", "ipv4/10.0.0.0-026", "ipv6/010.000.000.000-026", "ipv4/010.000.000.000-26", "ipv4/010.000.000.000-033",
		"ipv4/999.000.000.000-008", "ipv6/fd00::-122", "ipv4/fd00:0000:0000:0000:0000:0000:0000:0040-122",
	} {
		_, ok := named.parse(named.prefix + key)
		assert.False(t, ok, key)
	}
}

// drawPrefix is a prefix of few addresses, so that two often overlap.
func drawPrefix(t *rapid.T, name string) netip.Prefix {
	number := rapid.Uint16().Draw(t, name)
	if rapid.Bool().Draw(t, name+" is IPv6") {
		a := netip.MustParseAddr("fd00::").As16()
		binary.BigEndian.PutUint16(a[14:], number)
		return netip.PrefixFrom(netip.AddrFrom16(a), rapid.IntRange(100, 128).Draw(t, name+"'s length")).Masked()
	}
	a := [4]byte{10, 0}
	binary.BigEndian.PutUint16(a[2:], number)
	return netip.PrefixFrom(netip.AddrFrom4(a), rapid.IntRange(0, 32).Draw(t, name+"'s length")).Masked()
}

// The spans around and inside a prefix have the keys of the prefixes that overlap it, and no others.
func TestSpansAreWhatOverlaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, q := drawPrefix(t, "p"), drawPrefix(t, "q")
		key, in := named.block(q), 0
		for _, s := range append(named.around(p), named.inside(p)) {
			if s.from <= key && key < s.end {
				in++
			}
		}
		want := 0
		if p.Overlaps(q) {
			want = 1
		}
		require.Equal(t, want, in, "%s and %s", p, q)
	})
}

func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, q := drawPrefix(t, "p"), drawPrefix(t, "q")
		if p.Addr().Is4() == q.Addr().Is4() {
			require.Equal(t, p.Addr().Less(q.Addr()) || p.Addr() == q.Addr() && p.Bits() < q.Bits(), named.block(p) < named.block(q))
		}
	})
}

// FuzzDecode reads values that we did not write: refused, or a block as a Store may have it.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"prefix":"10.0.0.0/26","node":"a","shares":[{"prefix":"10.0.0.0/29","node":"a"}]}`))
	f.Add([]byte(`{"prefix":"10.0.0.0/26","shares":[{"prefix":"10.0.0.0/26","node":"b","doubted":"2026-01-02T03:04:05Z"}]}`))
	f.Add([]byte(`{"prefix":"10.0.0.0/26","shares":[]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p := netip.MustParsePrefix("10.0.0.0/26")
		b, err := named.decode(&mvccpb.KeyValue{Key: []byte(named.block(p)), Value: text, ModRevision: 7})
		if err != nil {
			return
		}
		require.NoError(t, b.Validate())
		require.Equal(t, p, b.Prefix)
		require.NotEmpty(t, b.Shares)
		require.Equal(t, "7", b.Revision)
	})
}
