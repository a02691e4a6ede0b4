package nat

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
)

// tracked are the attributes of a connection to a host port, whose answers come from a pod, as the kernel lists one.
func tracked(t *testing.T, p Protocol, to, pod netip.AddrPort) []byte {
	t.Helper()
	client := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.9"), 40000)
	src, dst := uint16(ctIPv4Src), uint16(ctIPv4Dst)
	if to.Addr().Is6() {
		client = netip.AddrPortFrom(netip.MustParseAddr("2001:db8::9"), 40000)
		src, dst = ctIPv6Src, ctIPv6Dst
	}
	e := netlink.NewAttributeEncoder()
	tuple := func(kind uint16, from, to netip.AddrPort) {
		e.Nested(kind, func(e *netlink.AttributeEncoder) error {
			e.Nested(ctTupleIP, func(e *netlink.AttributeEncoder) error {
				e.Bytes(src, from.Addr().AsSlice())
				e.Bytes(dst, to.Addr().AsSlice())
				return nil
			})
			e.Nested(ctTupleProto, func(e *netlink.AttributeEncoder) error {
				e.Uint8(ctProtoNum, uint8(p))
				e.Bytes(ctProtoSrcPort, []byte{byte(from.Port() >> 8), byte(from.Port())})
				e.Bytes(ctProtoDstPort, []byte{byte(to.Port() >> 8), byte(to.Port())})
				return nil
			})
			return nil
		})
	}
	tuple(ctTupleOrig, client, to)
	tuple(ctTupleReply, pod, client)
	e.Uint32(ctID, 7)
	data, err := e.Encode()
	require.NoError(t, err)
	return data
}

// TestFlowsInclude: a kernel that knows no filters lists every connection of the node.
func TestFlowsInclude(t *testing.T) {
	at := netip.MustParseAddrPort
	to4, pod4 := at("192.0.2.1:8080"), at("10.244.1.2:80")
	to6, pod6 := at("[2001:db8::1]:8080"), at("[fd00:244::2]:80")
	v4, v6 := tracked(t, UDP, to4, pod4), tracked(t, UDP, to6, pod6)
	tests := []struct {
		name   string
		flows  flows
		listed []byte
		want   bool
	}{
		{"to the host port", flows{protocol: UDP, to: to4}, v4, true},
		{"to the host port, v6", flows{protocol: UDP, to: to6}, v6, true},
		{"from the pod", flows{protocol: UDP, from: pod4}, v4, true},
		{"from the pod, v6", flows{protocol: UDP, from: pod6}, v6, true},
		{"to an address of the node", flows{protocol: UDP, to: at("0.0.0.0:8080")}, v4, true},
		{"to an address of the node, v6", flows{protocol: UDP, to: at("[::]:8080")}, v6, true},
		{"to somebody else", flows{protocol: UDP, to: at("0.0.0.0:80")}, tracked(t, UDP, pod4, pod4), false},
		{"another protocol", flows{protocol: TCP, to: to4}, v4, false},
		{"another address", flows{protocol: UDP, to: at("192.0.2.3:8080")}, v4, false},
		{"another port", flows{protocol: UDP, to: at("192.0.2.1:8081")}, v4, false},
		{"another pod", flows{protocol: UDP, from: at("10.244.1.3:80")}, v4, false},
		{"another port of the pod", flows{protocol: UDP, from: at("10.244.1.2:81")}, v4, false},
		{"the pod is asked, and does not answer", flows{protocol: UDP, to: pod4}, v4, false},
		{"the port answers, and is not asked", flows{protocol: UDP, from: to4}, v4, false},
		{"another family", flows{protocol: UDP, to: to6}, v4, false},
		{"nothing is said of it", flows{protocol: UDP, to: to4}, nil, false},
		{"cut off", flows{protocol: UDP, to: to4}, v4[:20], false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			all := forgotten{map[flows]bool{test.flows: true}, map[netip.Addr]bool{to4.Addr(): true, to6.Addr(): true}}
			assert.Equal(t, test.want, all.include(test.listed))
		})
	}
}

// TestFilters: what the kernel lists by a filter has the others left out, and the same is dropped as without one.
func TestFilters(t *testing.T) {
	n := testnet.NewNode(t, "node")
	p, err := NewPorts(Config{NetNS: n.NetNS()})
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	pod := netip.MustParseAddrPort("10.244.1.2:80")
	require.NoError(t, p.Add(t.Context(), []HostPort{{Protocol: TCP, Port: 1, Pod: pod}})) // tracks
	c, err := dialTracker(n.NetNS())
	require.NoError(t, err)
	t.Cleanup(func() { c.sock.Close() })
	sabotage.Do(t, n, func(b *nl.Batch) { b.SetUp(1, true) })
	for _, loopback := range []string{"127.0.0.1", "::1"} {
		t.Run(loopback, func(t *testing.T) {
			for _, port := range []uint16{7000, 7001} {
				require.NoError(t, n.Do(func() error {
					conn, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr(loopback), port).String())
					if err == nil {
						_, err = conn.Write([]byte("x"))
						err = errors.Join(err, conn.Close())
					}
					return err
				}))
			}
			at := netip.AddrPortFrom(netip.MustParseAddr(loopback), 7000)
			for _, one := range []flows{{protocol: UDP, to: at}, {protocol: UDP, from: at}} {
				listed := 0
				err = c.ask(ctGet, unix.NLM_F_DUMP, one.filter().family, one.filter().attributes(), func(_ byte, attrs []byte) {
					if all := (forgotten{flows: map[flows]bool{one: true}}); all.include(attrs) {
						listed++
					}
				})
				require.NoError(t, err)
				assert.Equal(t, 1, listed)
			}
			before, err := c.count()
			require.NoError(t, err)
			other := flows{protocol: UDP, to: netip.AddrPortFrom(at.Addr(), 7001)}
			all := forgotten{flows: map[flows]bool{other: true}}
			require.NoError(t, c.drop(flows{protocol: UDP, to: at}.filter(), all))
			after, err := c.count()
			require.NoError(t, err)
			assert.LessOrEqual(t, before-after, 1, "older kernels know no filters")
			require.NoError(t, c.drop(other.filter(), all))
			require.NoError(t, c.drop(filter{}, forgotten{flows: map[flows]bool{{protocol: UDP, from: at}: true}}))
			left, err := c.count()
			require.NoError(t, err)
			assert.Equal(t, before-2, left)
		})
	}
}

// FuzzInclude: whatever is listed, it is looked at without harm, and its key is among its attributes.
func FuzzInclude(f *testing.F) {
	for _, listed := range []uint16{ctTupleOrig, ctTupleReply, ctID, ctZone} {
		f.Add(binary.NativeEndian.AppendUint16([]byte{8, 0}, listed))
	}
	all := forgotten{flows: map[flows]bool{{protocol: UDP, to: netip.MustParseAddrPort("0.0.0.0:80")}: true}}
	f.Fuzz(func(t *testing.T, raw []byte) {
		all.include(raw)
		assert.LessOrEqual(t, len(keyOf(raw)), len(raw)+3)
	})
}
