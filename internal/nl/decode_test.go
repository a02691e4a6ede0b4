package nl

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// body is that of the one request that add puts into a batch: the kernel's notifications have the same form.
func body(add func(b *Batch)) []byte {
	var b Batch
	add(&b)
	return b.msg.buf[unix.NLMSG_HDRLEN:]
}

func TestParseRoute(t *testing.T) {
	gateway := Route{
		RouteKey: RouteKey{Table: 1000, Prefix: netip.MustParsePrefix("fd00:2::/64"), Metric: 50},
		Protocol: 200, Type: unix.RTN_UNICAST, Gateway: netip.MustParseAddr("fe80::2"), Link: 4, Onlink: true,
	}
	object := Route{
		RouteKey: RouteKey{Table: 254, Prefix: netip.MustParsePrefix("10.244.2.0/24")}, Protocol: 200, Type: unix.RTN_UNICAST, Nexthop: 1 << 31,
	}
	everything := Route{RouteKey: RouteKey{Table: 254, Prefix: netip.MustParsePrefix("0.0.0.0/0")}, Type: unix.RTN_UNICAST, Link: 3}
	with := func(r Route, change func(b []byte)) []byte {
		raw := body(func(b *Batch) { b.AddRoute(r) })
		change(raw)
		return raw
	}
	tests := []struct {
		name   string
		b      []byte
		want   Route
		cloned bool
		ok     bool
	}{
		{"gateway", with(gateway, func([]byte) {}), gateway, false, true},
		{"nexthop object", with(object, func([]byte) {}), object, false, true},
		{"default", with(everything, func([]byte) {}), everything, false, true},
		{"cloned", with(object, func(b []byte) { native.PutUint32(b[8:], unix.RTM_F_CLONED) }), object, true, true},
		{"from a source", with(object, func(b []byte) { b[2] = 24 }), Route{}, false, false},
		{"with a TOS", with(object, func(b []byte) { b[3] = 8 }), Route{}, false, false},
		{"of MPLS", with(object, func(b []byte) { b[0] = unix.AF_MPLS }), Route{}, false, false},
		{"prefix longer than its address", with(object, func(b []byte) { b[1] = 33 }), Route{}, false, false},
		{"cut", with(object, func([]byte) {})[:11], Route{}, false, false},
		{"nothing", nil, Route{}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, cloned, ok := parseRoute(tt.b)
			require.Equal(t, tt.ok, ok)
			if ok {
				assert.Equal(t, tt.want, got)
				assert.Equal(t, tt.cloned, cloned)
			}
		})
	}
}

func TestParseNexthop(t *testing.T) {
	want := Nexthop{ID: 1 << 31, Protocol: 200, Gateway: netip.MustParseAddr("fe80::2"), Link: 4, Onlink: true}
	raw := body(func(b *Batch) { b.AddNexthop(want) })
	got, ok := parseNexthop(raw)
	require.True(t, ok)
	assert.Equal(t, want, got)
	native.PutUint32(raw[4:], unix.RTNH_F_ONLINK|unix.RTNH_F_DEAD|unix.RTNH_F_LINKDOWN)
	got, ok = parseNexthop(raw)
	require.True(t, ok)
	assert.Equal(t, want, got, "the link's state is no part of it")
	want = Nexthop{ID: 7, Protocol: 200, Gateway: netip.MustParseAddr("2001:db8::2"), Source: netip.MustParseAddr("2001:db8::1"), Link: 4}
	wraps, ok := parseNexthop(body(func(b *Batch) { b.AddNexthop(want) }))
	require.True(t, ok)
	assert.Equal(t, want, wraps)
	assert.Equal(t, "nexthop 7 encap ip6 src 2001:db8::1 dst 2001:db8::2 dev tnl", wraps.Format("tnl"))

	_, ok = parseNexthop(raw[:sizeofNexthopMsg])
	assert.False(t, ok, "one without an id names nothing")
	_, ok = parseNexthop(raw[:7])
	assert.False(t, ok)
}

func TestParseNeighbor(t *testing.T) {
	mac := podweft.MAC{0x0e, 1, 2, 3, 4, 5}
	n := Neighbor{NeighborKey{4, netip.MustParseAddr("fe80::2")}, mac}
	e, ok := parseNeighbor(body(func(b *Batch) { b.SetNeighbor(n) }))
	require.True(t, ok)
	assert.True(t, e.permanent())
	assert.Equal(t, n, e.neighbor())

	f := Forward{ForwardKey: ForwardKey{4, mac}, To: netip.MustParseAddr("192.0.2.2")}
	e, ok = parseNeighbor(body(func(b *Batch) { b.SetForward(f) }))
	require.True(t, ok)
	assert.True(t, e.permanent())
	assert.EqualValues(t, unix.AF_BRIDGE, e.family)
	assert.Equal(t, f, e.forward())

	f.Detour = Detour{Port: 4789, VNI: 7, Underlay: 3, Nexthop: 9}
	e, ok = parseNeighbor(body(func(b *Batch) { b.SetForward(f) }))
	require.True(t, ok)
	assert.Equal(t, f, e.forward())
	assert.Equal(t, "fdb 0e:01:02:03:04:05 dev vx dst 192.0.2.2 port 4789 vni 7 via link 3 nhid 9 self permanent", f.Format("vx"))

	e, ok = parseNeighbor(body(func(b *Batch) { b.DeleteNeighbor(n.NeighborKey) }))
	require.True(t, ok)
	assert.False(t, e.permanent())
	_, ok = parseNeighbor(make([]byte, 11))
	assert.False(t, ok)
}

func TestAnswer(t *testing.T) {
	explained := func(flags uint16, echoed int, text string) (header, []byte) {
		failed := -int32(unix.ENETUNREACH)
		m := message{buf: native.AppendUint32(nil, uint32(failed))}
		m.buf = append(m.buf, make([]byte, echoed)...)
		native.PutUint32(m.buf[4:], uint32(echoed))
		m.str(nlmsgerrMsg, text)
		return header{kind: unix.NLMSG_ERROR, flags: flags}, m.buf
	}
	t.Run("acknowledgement", func(t *testing.T) {
		assert.NoError(t, answer(header{}, make([]byte, 20)))
	})
	t.Run("errno alone", func(t *testing.T) {
		h, b := explained(0, 16, "Nexthop has invalid gateway")
		err := answer(h, b)
		assert.Equal(t, unix.ENETUNREACH, err)
	})
	t.Run("explained, request left out", func(t *testing.T) {
		err := answer(explained(unix.NLM_F_ACK_TLVS|unix.NLM_F_CAPPED, 16, "Nexthop has invalid gateway"))
		assert.ErrorIs(t, err, unix.ENETUNREACH)
		assert.EqualError(t, err, "network is unreachable (Nexthop has invalid gateway)")
	})
	t.Run("explained, request echoed", func(t *testing.T) {
		err := answer(explained(unix.NLM_F_ACK_TLVS, 60, "Nexthop has invalid gateway"))
		assert.ErrorIs(t, err, unix.ENETUNREACH)
		assert.EqualError(t, err, "network is unreachable (Nexthop has invalid gateway)")
	})
	t.Run("request cut", func(t *testing.T) {
		h, b := explained(unix.NLM_F_ACK_TLVS, 60, "")
		assert.Equal(t, unix.ENETUNREACH, answer(h, b[:30]))
	})
	t.Run("cut", func(t *testing.T) {
		assert.Error(t, answer(header{}, make([]byte, 3)), "must not pass for an acknowledgement")
	})
}

func TestMessages(t *testing.T) {
	var b Batch
	for _, tt := range requests {
		tt.add(&b)
	}
	whole := b.msg.buf
	kinds := func(raw []byte) (kinds []uint16, err error) {
		err = messages(raw, func(h header, _ []byte) { kinds = append(kinds, h.kind) })
		return kinds, err
	}
	got, err := kinds(whole)
	require.NoError(t, err)
	require.Len(t, got, len(requests))
	for i, tt := range requests {
		assert.EqualValues(t, tt.kind, got[i], tt.name)
	}

	got, err = kinds(whole[:len(whole)-4])
	assert.Error(t, err, "a message that was cut")
	assert.Len(t, got, len(requests)-1)
	got, err = kinds(make([]byte, 64))
	assert.Error(t, err, "a message of no length would be read for ever")
	assert.Empty(t, got)
}

// FuzzMessages reads what the kernel might send with every decoder.
func FuzzMessages(f *testing.F) {
	var b Batch
	for _, tt := range requests {
		tt.add(&b)
		raw := body(tt.add)
		f.Add(raw)
	}
	f.Add(b.msg.buf)
	f.Fuzz(func(t *testing.T, raw []byte) {
		total := 0
		err := messages(raw, func(h header, body []byte) {
			total += unix.NLMSG_HDRLEN + len(body)
			decodeAll(h, body)
		})
		require.LessOrEqual(t, total, len(raw))
		if err == nil {
			require.Less(t, len(raw)-total, unix.NLMSG_HDRLEN+attrAlign*len(raw)/unix.NLMSG_HDRLEN, "something was left out")
		}
		for _, flags := range []uint16{0, unix.NLM_F_ACK_TLVS, unix.NLM_F_ACK_TLVS | unix.NLM_F_CAPPED} {
			decodeAll(header{flags: flags}, raw)
		}
	})
}

func decodeAll(h header, body []byte) {
	_ = answer(h, body)
	if r, _, ok := parseRoute(body); ok {
		_ = r.Format("dev")
		r.hops(body, func(hop Route) { _ = hop.Format("dev") })
	}
	if nh, ok := parseNexthop(body); ok {
		_ = nh.Format("dev")
	}
	if e, ok := parseNeighbor(body); ok {
		_, _ = e.neighbor(), e.forward()
	}
	if len(body) >= unix.SizeofIfInfomsg {
		parsePort(body)
	}
	all := Events{
		Link: func(int, string) {}, Address: func(int) {}, Neighbor: func(Neighbor, bool) {}, Forward: func(Forward, bool) {},
		OfLink: func(int) bool { return true }, Route: func(Route, bool) {}, Nexthop: func(Nexthop, bool) {}, Lost: func() {},
	}
	for kind := unix.RTM_NEWLINK; kind <= unix.RTM_DELNEXTHOP; kind++ {
		all.dispatch(header{kind: uint16(kind)}, body)
	}
}

// FuzzRoute: what is decoded as a route is, written again, the same route.
func FuzzRoute(f *testing.F) {
	for _, tt := range requests {
		f.Add(body(tt.add))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, _, ok := parseRoute(raw)
		if !ok || r.Multipath || !r.Prefix.Addr().IsValid() {
			return
		}
		again, _, ok := parseRoute(body(func(b *Batch) { b.AddRoute(r) }))
		require.True(t, ok)
		assert.Equal(t, r.RouteKey, again.RouteKey)
		assert.Equal(t, r.Protocol, again.Protocol)
		assert.Equal(t, r.Nexthop, again.Nexthop)
		if r.Nexthop == 0 {
			assert.Equal(t, r.Gateway, again.Gateway)
		}
	})
}
