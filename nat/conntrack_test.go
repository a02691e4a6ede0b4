package nat

import (
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
		{"another protocol", flows{protocol: TCP, to: to4}, v4, false},
		{"another address", flows{protocol: UDP, to: at("192.0.2.3:8080")}, v4, false},
		{"another port", flows{protocol: UDP, to: at("192.0.2.1:8081")}, v4, false},
		{"another pod", flows{protocol: UDP, from: at("10.244.1.3:80")}, v4, false},
		{"another port of the pod", flows{protocol: UDP, from: at("10.244.1.2:81")}, v4, false},
		{"the pod is asked, and does not answer", flows{protocol: UDP, to: pod4}, v4, false},
		{"the port answers, and is not asked", flows{protocol: UDP, from: to4}, v4, false},
		{"another family", flows{protocol: UDP, to: to6}, v4, false},
		{"nothing is said of it", flows{protocol: UDP, to: to4}, nil, false},
		{"cut off", flows{protocol: UDP, to: to4}, v4[:len(v4)-3], false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			assert.Equal(t, test.want, test.flows.include(test.listed))
		})
	}
}
