package subnet_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

func prefixes(t testing.TB, texts ...string) (p subnet.Prefixes) {
	for _, text := range texts {
		x, err := netip.ParsePrefix(text)
		require.NoError(t, err)
		if x.Addr().Is4() {
			p.V4 = x
		} else {
			p.V6 = x
		}
	}
	return p
}

func addrs(t testing.TB, texts ...string) (a subnet.Addrs) {
	for _, text := range texts {
		x, err := netip.ParseAddr(text)
		require.NoError(t, err)
		if x.Is4() {
			a.V4 = x
		} else {
			a.V6 = x
		}
	}
	return a
}

const dual = `{"EnableIPv6": true, "Network": "10.244.0.0/16", "IPv6Network": "fd00:244::/48"}`

func TestPeers(t *testing.T) {
	self := &subnet.Lease{
		Key: "m", Node: "self",
		Prefixes: prefixes(t, "10.244.1.0/24", "fd00:244:0:1::/64"), Underlay: addrs(t, "192.0.2.1", "2001:db8::1"),
	}
	lease := func(key string, p subnet.Prefixes, u subnet.Addrs) *subnet.Lease {
		return &subnet.Lease{Key: key, Node: "node-" + key, Prefixes: p, Underlay: u, Backend: "vxlan"}
	}
	two, three := addrs(t, "192.0.2.2", "2001:db8::2"), addrs(t, "192.0.2.3", "2001:db8::3")
	whole := lease("a", prefixes(t, "10.244.2.0/24", "fd00:244:0:2::/64"), two)
	for _, c := range []struct {
		name     string
		conf     string // dual unless given
		leases   []*subnet.Lease
		want     []string // the peers, as text
		problems []string
	}{
		{
			name:   "sound",
			leases: []*subnet.Lease{whole, lease("b", prefixes(t, "10.244.3.0/24", "fd00:244:0:3::/64"), three)},
			want:   []string{"10.244.2.0/24, fd00:244:0:2::/64 of node-a via 192.0.2.2, 2001:db8::2", "10.244.3.0/24, fd00:244:0:3::/64 of node-b via 192.0.2.3, 2001:db8::3"},
		},
		{
			name:   "one family is enough",
			leases: []*subnet.Lease{lease("a", prefixes(t, "10.244.2.0/24"), addrs(t, "2001:db8::2")), lease("b", prefixes(t, "fd00:244:0:3::/64"), addrs(t, "192.0.2.3"))},
			want:   []string{"10.244.2.0/24 of node-a via 2001:db8::2", "fd00:244:0:3::/64 of node-b via 192.0.2.3"},
		},
		{
			name:     "outside the network",
			leases:   []*subnet.Lease{lease("a", prefixes(t, "10.9.0.0/24", "fd00:244:0:2::/64"), two), lease("b", prefixes(t, "10.244.0.0/15"), three)},
			want:     []string{"fd00:244:0:2::/64 of node-a via 192.0.2.2, 2001:db8::2"},
			problems: []string{"lease a of node-a: Prefixes.V4: 10.9.0.0/24 lies outside the network 10.244.0.0/16", "lease b of node-b: Prefixes.V4: 10.244.0.0/15 lies outside the network 10.244.0.0/16"},
		},
		{
			name:     "as large as the network",
			leases:   []*subnet.Lease{lease("a", prefixes(t, "10.244.0.0/16"), two), lease("b", prefixes(t, "0.0.0.0/0"), two)},
			problems: []string{"lease a of node-a: Prefixes.V4: 10.244.0.0/16 overlaps 10.244.1.0/24 of self", "lease b of node-b: Prefixes.V4: 0.0.0.0/0 lies outside the network 10.244.0.0/16"},
		},
		{
			name:     "a family the network does not have",
			conf:     `{"Network": "10.244.0.0/16"}`,
			leases:   []*subnet.Lease{whole},
			want:     []string{"10.244.2.0/24 of node-a via 192.0.2.2, 2001:db8::2"},
			problems: []string{"lease a of node-a: Prefixes.V6: fd00:244:0:2::/64 has no place in a network without IPv6"},
		},
		{
			name:     "host bits",
			leases:   []*subnet.Lease{lease("a", prefixes(t, "10.244.2.7/24", "fd00:244:0:2::1/64"), two)},
			problems: []string{"lease a of node-a: Prefixes.V4: 10.244.2.7/24 has host bits set", "lease a of node-a: Prefixes.V6: fd00:244:0:2::1/64 has host bits set"},
		},
		{
			name: "families exchanged",
			leases: []*subnet.Lease{
				lease("a", subnet.Prefixes{V4: netip.MustParsePrefix("fd00:244:0:2::/64"), V6: netip.MustParsePrefix("10.244.2.0/24")}, two),
				lease("b", prefixes(t, "10.244.3.0/24"), subnet.Addrs{V4: netip.MustParseAddr("2001:db8::3"), V6: netip.MustParseAddr("192.0.2.3")}),
				lease("c", subnet.Prefixes{V6: netip.MustParsePrefix("::ffff:10.244.4.0/120")}, subnet.Addrs{V6: netip.MustParseAddr("::ffff:192.0.2.3")}),
			},
			problems: []string{
				"lease a of node-a: Prefixes.V4: fd00:244:0:2::/64 is not an IPv4 subnet", "lease a of node-a: Prefixes.V6: 10.244.2.0/24 is not an IPv6 subnet",
				"lease b of node-b: Underlay.V4: 2001:db8::3 is not an IPv4 address", "lease b of node-b: Underlay.V6: 192.0.2.3 is not an IPv6 address",
				"lease c of node-c: Prefixes.V6: ::ffff:10.244.4.0/120 is not an IPv6 subnet", "lease c of node-c: Underlay.V6: ::ffff:192.0.2.3 is not an IPv6 address",
			},
		},
		{
			name:     "ours always wins, the first by key else",
			leases:   []*subnet.Lease{lease("a", prefixes(t, "10.244.1.0/24", "fd00:244:0:2::/64"), two), lease("b", prefixes(t, "fd00:244:0:2::/64"), three), lease("z", prefixes(t, "10.244.1.0/24"), three)},
			want:     []string{"fd00:244:0:2::/64 of node-a via 192.0.2.2, 2001:db8::2"},
			problems: []string{"lease a of node-a: Prefixes.V4: 10.244.1.0/24 overlaps 10.244.1.0/24 of self", "lease b of node-b: Prefixes.V6: fd00:244:0:2::/64 overlaps fd00:244:0:2::/64 of node-a", "lease z of node-z: Prefixes.V4: 10.244.1.0/24 overlaps 10.244.1.0/24 of self"},
		},
		{
			name: "ours wins even where two of ours overlap",
			leases: []*subnet.Lease{
				{Key: "n", Node: "self", Prefixes: prefixes(t, "10.244.0.0/20"), Underlay: addrs(t, "192.0.2.11")},
				lease("a", prefixes(t, "10.244.9.0/24"), two), lease("b", prefixes(t, "10.244.16.0/24"), addrs(t, "192.0.2.11")),
			},
			problems: []string{"lease a of node-a: Prefixes.V4: 10.244.9.0/24 overlaps 10.244.0.0/20 of self", "lease b of node-b: Underlay.V4: 192.0.2.11 is this node's own address"},
		},
		{
			name:   "another length, disjoint",
			leases: []*subnet.Lease{lease("a", prefixes(t, "10.244.2.0/26"), two), lease("b", prefixes(t, "10.244.2.64/26"), three), lease("c", prefixes(t, "10.244.128.0/18"), two)},
			want:   []string{"10.244.2.0/26 of node-a via 192.0.2.2, 2001:db8::2", "10.244.2.64/26 of node-b via 192.0.2.3, 2001:db8::3", "10.244.128.0/18 of node-c via 192.0.2.2, 2001:db8::2"},
		},
		{
			name: "another length never takes a usual subnet",
			leases: []*subnet.Lease{
				lease("a", prefixes(t, "10.244.128.0/17"), two), lease("b", prefixes(t, "10.244.5.0/25"), two), lease("c", prefixes(t, "10.244.5.128/32"), two),
				lease("x", prefixes(t, "10.244.200.0/24"), three), lease("y", prefixes(t, "10.244.5.0/24"), three), lease("z", prefixes(t, "10.244.6.0/30"), three),
			},
			want: []string{"10.244.200.0/24 of node-x via 192.0.2.3, 2001:db8::3", "10.244.5.0/24 of node-y via 192.0.2.3, 2001:db8::3", "10.244.6.0/30 of node-z via 192.0.2.3, 2001:db8::3"},
			problems: []string{
				"lease a of node-a: Prefixes.V4: 10.244.128.0/17 overlaps 10.244.200.0/24 of node-x",
				"lease b of node-b: Prefixes.V4: 10.244.5.0/25 overlaps 10.244.5.0/24 of node-y",
				"lease c of node-c: Prefixes.V4: 10.244.5.128/32 overlaps 10.244.5.0/24 of node-y",
			},
		},
		{
			name: "addresses nothing can be sent to",
			leases: []*subnet.Lease{
				lease("a", prefixes(t, "10.244.2.0/24"), addrs(t, "0.0.0.0", "::")), lease("b", prefixes(t, "10.244.3.0/24"), addrs(t, "127.0.0.1", "::1")),
				lease("c", prefixes(t, "10.244.4.0/24"), addrs(t, "224.0.0.1", "ff02::1")), lease("d", prefixes(t, "10.244.5.0/24"), addrs(t, "169.254.0.1", "fe80::1")),
				lease("e", prefixes(t, "10.244.6.0/24"), addrs(t, "192.0.2.1", "2001:db8::1")), lease("f", prefixes(t, "10.244.7.0/24"), addrs(t, "255.255.255.255", "2001:db8::7")),
				lease("g", prefixes(t, "10.244.8.0/24"), subnet.Addrs{}), lease("h", prefixes(t, "10.244.9.0/24"), addrs(t, "2001:db8::9%eth0")),
			},
			want: []string{"10.244.7.0/24 of node-f via 2001:db8::7"},
			problems: []string{
				"lease a of node-a: Underlay.V4: 0.0.0.0 is the unspecified address", "lease a of node-a: Underlay.V6: :: is the unspecified address",
				"lease b of node-b: Underlay.V4: 127.0.0.1 is a loopback address", "lease b of node-b: Underlay.V6: ::1 is a loopback address",
				"lease c of node-c: Underlay.V4: 224.0.0.1 is not one station's address", "lease c of node-c: Underlay.V6: ff02::1 is not one station's address",
				"lease d of node-d: Underlay.V4: 169.254.0.1 is a link-local address", "lease d of node-d: Underlay.V6: fe80::1 is a link-local address",
				"lease e of node-e: Underlay.V4: 192.0.2.1 is this node's own address", "lease e of node-e: Underlay.V6: 2001:db8::1 is this node's own address",
				"lease f of node-f: Underlay.V4: 255.255.255.255 is not one station's address",
				"lease g of node-g: Underlay: is missing",
				"lease h of node-h: Underlay.V6: 2001:db8::9%eth0 is not an IPv6 address",
			},
		},
		{
			name:     "nothing in it",
			leases:   []*subnet.Lease{{Key: "a", Node: "node-a"}},
			problems: []string{"lease a of node-a: Prefixes: are missing", "lease a of node-a: Underlay: is missing"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := c.conf
			if conf == "" {
				conf = dual
			}
			s := &subnet.Snapshot{Network: network(t, conf), Leases: append([]*subnet.Lease{self}, c.leases...)}
			slices.SortFunc(s.Leases, byKey)
			peers, problems := s.Peers("self")
			assert.Equal(t, c.want, texts(peers))
			var got []string
			for _, p := range problems {
				got = append(got, p.Error())
				assert.ErrorIs(t, p, podweft.ErrInvalid)
			}
			assert.Equal(t, c.problems, got)
			if len(problems) == 0 {
				for _, p := range peers {
					assert.True(t, slices.Contains(c.leases, p), "a sound lease is not copied")
				}
			}
		})
	}
}

func texts(leases []*subnet.Lease) (texts []string) {
	for _, l := range leases {
		texts = append(texts, l.String())
	}
	return texts
}

func byKey(a, b *subnet.Lease) int {
	return slices.Compare([]byte(a.Key), []byte(b.Key))
}

// TestPeersKeepsRest: what a lease keeps of itself is whole, and the original untouched.
func TestPeersKeepsRest(t *testing.T) {
	l := &subnet.Lease{
		Key: "k", Node: "n", Prefixes: prefixes(t, "10.244.2.0/24", "fd01::/64"), Underlay: addrs(t, "192.0.2.2"), Backend: "vxlan",
		Data: subnet.Data{V4: []byte(`{"VNI":1}`)}, Revision: 7,
	}
	before := *l
	s := &subnet.Snapshot{Network: network(t, dual), Leases: []*subnet.Lease{l}}
	peers, problems := s.Peers("self")
	require.Len(t, peers, 1)
	require.Len(t, problems, 1)
	want := before
	want.Prefixes.V6 = netip.Prefix{}
	assert.Equal(t, &want, peers[0])
	assert.Equal(t, &before, l)
}

// TestPeersWithoutNetwork: snapshots made by hand need none, nor a lease of our own.
func TestPeersWithoutNetwork(t *testing.T) {
	s := &subnet.Snapshot{Leases: []*subnet.Lease{
		{Key: "a", Node: "a", Prefixes: prefixes(t, "172.16.0.0/12"), Underlay: addrs(t, "192.0.2.2")},
		{Key: "b", Node: "b", Prefixes: prefixes(t, "172.17.0.0/24", "fd00::/64"), Underlay: addrs(t, "192.0.2.3")},
	}}
	peers, problems := s.Peers("self")
	assert.Equal(t, []string{"172.16.0.0/12 of a via 192.0.2.2", "fd00::/64 of b via 192.0.2.3"}, texts(peers))
	require.Len(t, problems, 1)
	assert.EqualError(t, problems[0], "lease b of b: Prefixes.V4: 172.17.0.0/24 overlaps 172.16.0.0/12 of a")
	peers, problems = (&subnet.Snapshot{}).Peers("self")
	assert.Empty(t, peers)
	assert.Empty(t, problems)
}

// FuzzPeers makes leases of hostile bytes. Whatever they are, the peers keep what Peers promises, and they are those that the
// rule, followed word by word, gives.
func FuzzPeers(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x0a\xf4\x01\x00\x18\x01 some twelve \x0a\xf4\x01\x00\x19\x00 more than that, for several leases of all kinds"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &subnet.Snapshot{Network: network(t, dual), Leases: hostile(data)}
		peers, _ := s.Peers("self")
		own := ownOf(s, "self")
		for i, p := range peers {
			require.NotEqual(t, "self", p.Node)
			require.False(t, p.Prefixes.IsZero() || p.Underlay.IsZero(), "%+v", p)
			for x := range p.Prefixes.All() {
				in := s.Network.V4.Network
				if x.Addr().Is6() {
					in = s.Network.V6.Network
				}
				require.Equal(t, x.Masked(), x)
				require.True(t, in.Contains(x.Addr()) && x.Bits() >= in.Bits(), "%s", x)
			}
			for _, o := range append(peers[:i:i], own...) {
				require.False(t, p.Prefixes.Overlaps(o.Prefixes), "%s, %s", p, o)
			}
		}
		require.Equal(t, texts(naivePeers(s, "self")), texts(peers))
	})
}

// ownOf is the sound part of self's own leases.
func ownOf(s *subnet.Snapshot, self string) (own []*subnet.Lease) {
	for _, l := range s.Leases {
		if l.Node == self {
			own = append(own, &subnet.Lease{Prefixes: sound(s.Network, l.Prefixes)})
		}
	}
	return own
}

func sound(n *subnet.Network, p subnet.Prefixes) subnet.Prefixes {
	ok := func(p, in netip.Prefix) bool {
		return p.IsValid() && p.Masked() == p && p.Addr().BitLen() == in.Addr().BitLen() && in.Overlaps(p) && p.Bits() >= in.Bits()
	}
	if !ok(p.V4, n.V4.Network) {
		p.V4 = netip.Prefix{}
	}
	if !ok(p.V6, n.V6.Network) {
		p.V6 = netip.Prefix{}
	}
	return p
}

// naivePeers compares everything with everything.
func naivePeers(s *subnet.Snapshot, self string) []*subnet.Lease {
	kept := map[*subnet.Lease]subnet.Prefixes{}
	taken := ownOf(s, self)
	ownAddrs := map[netip.Addr]bool{}
	for _, l := range s.Leases {
		if l.Node == self {
			ownAddrs[l.Underlay.V4], ownAddrs[l.Underlay.V6] = true, true
		}
	}
	admit := func(l *subnet.Lease, p subnet.Prefixes) subnet.Prefixes {
		for _, o := range taken {
			if p.V4.Overlaps(o.Prefixes.V4) {
				p.V4 = netip.Prefix{}
			}
			if p.V6.Overlaps(o.Prefixes.V6) {
				p.V6 = netip.Prefix{}
			}
		}
		taken = append(taken, &subnet.Lease{Prefixes: p})
		return p
	}
	for _, usual := range []bool{true, false} {
		for _, l := range s.Leases {
			if l.Node == self {
				continue
			}
			p := sound(s.Network, l.Prefixes)
			if (p.V4.Bits() == 24) != usual {
				p.V4 = netip.Prefix{}
			}
			if (p.V6.Bits() == 64) != usual {
				p.V6 = netip.Prefix{}
			}
			p = admit(l, p)
			k := kept[l]
			if p.V4.IsValid() {
				k.V4 = p.V4
			}
			if p.V6.IsValid() {
				k.V6 = p.V6
			}
			kept[l] = k
		}
	}
	unicast := func(a netip.Addr, is bool) netip.Addr {
		if !is || a.Is4In6() || a.Zone() != "" || ownAddrs[a] || !(a.IsGlobalUnicast()) {
			return netip.Addr{}
		}
		return a
	}
	var peers []*subnet.Lease
	for _, l := range s.Leases {
		k := *l
		k.Prefixes = kept[l]
		k.Underlay = subnet.Addrs{V4: unicast(l.Underlay.V4, l.Underlay.V4.Is4()), V6: unicast(l.Underlay.V6, l.Underlay.V6.Is6())}
		if l.Node != self && !k.Prefixes.IsZero() && !k.Underlay.IsZero() {
			peers = append(peers, &k)
		}
	}
	return peers
}

// hostile makes a lease of each 14 bytes, most of them near the network and near each other.
func hostile(data []byte) (leases []*subnet.Lease) {
	for i := 0; len(data) >= 14; i++ {
		b := data[:14]
		data = data[14:]
		l := &subnet.Lease{Key: fmt.Sprintf("%04d", i), Node: fmt.Sprint(b[0] % 8)}
		if b[0]%8 == 0 {
			l.Node = "self"
		}
		a4, a6 := [4]byte{10, 244, b[1] % 8, b[2] & b[3]}, [16]byte{0xfd, 0, 2, 0x44, 7: b[4] % 8, 15: b[5] & b[3]}
		if b[6] == 0 {
			binary.BigEndian.PutUint16(a4[:], binary.BigEndian.Uint16(b[1:]))
			a6[0] = b[1]
		}
		l.Prefixes = subnet.Prefixes{
			V4: netip.PrefixFrom(netip.AddrFrom4(a4), [...]int{24, 24, 24, 23, 25, 26, 32, 16, 0, 33, -1, int(b[7])}[b[7]%12]),
			V6: netip.PrefixFrom(netip.AddrFrom16(a6), [...]int{64, 64, 64, 63, 65, 128, 48, 0, 129, -1, int(b[8])}[b[8]%11]),
		}
		if b[9]&1 == 0 {
			l.Prefixes.V4 = l.Prefixes.V4.Masked()
		}
		if b[9]&2 == 0 {
			l.Prefixes.V6 = l.Prefixes.V6.Masked()
		}
		if b[9]&12 == 12 {
			l.Prefixes.V4, l.Prefixes.V6 = l.Prefixes.V6, l.Prefixes.V4
		}
		u4, u6 := netip.AddrFrom4([4]byte{192, 0, 2, b[10] % 4}), netip.AddrFrom16([16]byte{0x20, 1, 15: b[11] % 4})
		if b[12]&1 != 0 {
			u4 = netip.AddrFrom4([4]byte{b[10], b[11], 0, b[13]})
		}
		if b[12]&2 != 0 {
			u6 = netip.AddrFrom16([16]byte{b[10], b[11], 15: b[13]})
		}
		if b[12]&4 != 0 {
			u4, u6 = u6, netip.AddrFrom16(u4.As16())
		}
		if b[12]&8 != 0 {
			u6 = u6.WithZone("eth0")
		}
		if b[12]&16 != 0 {
			u4 = netip.Addr{}
		}
		l.Underlay = subnet.Addrs{V4: u4, V6: u6}
		leases = append(leases, l)
	}
	return leases
}

func TestProblem(t *testing.T) {
	p := subnet.Problem{Key: "net-conf.json", Err: errors.New("unreadable")}
	assert.EqualError(t, p, "net-conf.json: unreadable")
	assert.ErrorIs(t, p, p.Err)
}
