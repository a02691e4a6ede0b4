package cniplugin_test

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/testnet"
)

// flows are what a node's own programs send to its host ports while pods come and go. UDP is sent by one socket for each family, which
// goes on whoever has the port; over TCP connections stay open as long as the pod lives.
type flows struct {
	node    *node
	to      []netip.Addr // addresses of the node, one of each family
	kernel  *netlink.Conn
	senders []net.PacketConn // one for each of to
	pods    map[string]net.Listener
	open    map[string][]connection // by pod
	ended   []tracked               // since it was looked last

	toPods int // how many were seen
}

// connection is one that a pod has accepted.
type connection struct {
	tracked
	ends []net.Conn
}

// tracked is a connection as its first packet had it, by which the kernel finds it.
type tracked struct {
	protocol nat.Protocol
	from, to netip.AddrPort
}

func newFlows(t *testing.T, n *node, to []netip.Addr, pods []*testnet.Node) *flows {
	t.Helper()
	f := &flows{node: n, to: to, pods: map[string]net.Listener{}, open: map[string][]connection{}}
	t.Cleanup(f.close)
	require.NoError(t, n.ns.Do(func() (err error) {
		for _, network := range []string{"udp4", "udp6"} {
			c, err := net.ListenPacket(network, ":0")
			if err != nil {
				return err
			}
			f.senders = append(f.senders, c)
		}
		f.kernel, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	}))
	for _, pod := range pods {
		require.NoError(t, pod.Do(func() (err error) {
			f.pods[pod.Name], err = net.Listen("tcp", ":80")
			return err
		}))
	}
	return f
}

func (f *flows) close() {
	for name := range f.open {
		f.end(name)
	}
	for _, c := range f.senders {
		c.Close()
	}
	for _, l := range f.pods {
		l.Close()
	}
	if f.kernel != nil {
		f.kernel.Close()
	}
}

// end closes the connections of a pod that is gone.
func (f *flows) end(pod string) {
	for _, c := range f.open[pod] {
		f.ended = append(f.ended, c.tracked)
		for _, e := range c.ends {
			_ = e.(*net.TCPConn).SetLinger(0) // else the kernel goes on trying to say goodbye
			e.Close()
		}
	}
	delete(f.open, pod)
}

// sent is how the i-th sender's packets to a host port are tracked: who sends to itself does so from the same address.
func (f *flows) sent(i int, port uint16) tracked {
	from := netip.MustParseAddrPort(f.senders[i].LocalAddr().String())
	return tracked{nat.UDP, netip.AddrPortFrom(f.to[i], from.Port()), netip.AddrPortFrom(f.to[i], port)}
}

// send sends a packet to a host port, which may be nobody's.
func (f *flows) send(t *testing.T, r *rand.Rand, port uint16) {
	t.Helper()
	i := r.IntN(len(f.to))
	_, err := f.senders[i].WriteTo([]byte("who?"), net.UDPAddrFromAddrPort(f.sent(i, port).to))
	require.NoError(t, err)
}

// connect opens a connection to the pod's host port.
func (f *flows) connect(t *testing.T, r *rand.Rand, pod string, port uint16) {
	t.Helper()
	to := netip.AddrPortFrom(f.to[r.IntN(len(f.to))], port)
	var c net.Conn
	require.NoError(t, f.node.ns.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", to.String(), patience)
		return err
	}), "%s of %s", to, pod)
	one := connection{tracked{nat.TCP, netip.MustParseAddrPort(c.LocalAddr().String()), to}, []net.Conn{c}}
	l := f.pods[pod].(*net.TCPListener)
	require.NoError(t, l.SetDeadline(time.Now().Add(patience)))
	accepted, err := l.Accept()
	if err == nil {
		one.ends = append(one.ends, accepted)
	}
	f.open[pod] = append(f.open[pod], one)
	require.NoError(t, err, "%s leads elsewhere than to %s", to, pod)
}

// compare looks at what the kernel tracks of them: it goes where leads says, which is the node itself where no pod has the port, and no
// connection of a pod that lives is forgotten.
func (f *flows) compare(t *testing.T, first, last uint16, leads func(nat.Protocol, netip.AddrPort) netip.AddrPort) {
	t.Helper()
	for port := first; port <= last; port++ {
		for i := range f.senders {
			c := f.sent(i, port)
			if answers, known := f.find(t, c); known {
				require.Equal(t, leads(c.protocol, c.to), answers, "UDP to %s is tracked", c.to)
				f.saw(c, answers)
			}
		}
	}
	for pod, connections := range f.open {
		for _, c := range connections {
			answers, known := f.find(t, c.tracked)
			require.True(t, known, "the connection from %s to %s, with %s, which lives, is forgotten", c.from, c.to, pod)
			require.Equal(t, leads(c.protocol, c.to), answers)
			f.saw(c.tracked, answers)
		}
	}
	for _, c := range f.ended {
		_, known := f.find(t, c)
		require.False(t, known, "a connection from %s to %s is tracked, of a pod that is gone", c.from, c.to)
	}
	f.ended = nil
}

func (f *flows) saw(c tracked, answers netip.AddrPort) {
	if answers != c.to {
		f.toPods++
	}
}

// reboot ends all.
func (f *flows) reboot(t *testing.T) {
	t.Helper()
	for name := range f.open {
		f.end(name)
	}
	const ctDelete = 2 // IPCTNL_MSG_CT_DELETE, of all when it names none
	_, err := f.kernel.Execute(conntrackMessage(ctDelete, netlink.Acknowledge, 0, nil))
	require.NoError(t, err)
}

// Attributes of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctTupleOrig, ctTupleReply = 1, 2
	ctTupleIP, ctTupleProto   = 1, 2
)

// find asks the kernel for a connection, which takes it no search, and returns from where it expects answers.
func (f *flows) find(t *testing.T, c tracked) (answers netip.AddrPort, known bool) {
	t.Helper()
	family, src, dst := byte(unix.AF_INET), uint16(1), uint16(2)
	if c.to.Addr().Is6() {
		family, src, dst = unix.AF_INET6, 3, 4
	}
	e := netlink.NewAttributeEncoder()
	e.Nested(ctTupleOrig, func(e *netlink.AttributeEncoder) error {
		e.Nested(ctTupleIP, func(e *netlink.AttributeEncoder) error {
			e.Bytes(src, c.from.Addr().AsSlice())
			e.Bytes(dst, c.to.Addr().AsSlice())
			return nil
		})
		e.Nested(ctTupleProto, func(e *netlink.AttributeEncoder) error {
			e.ByteOrder = binary.BigEndian
			e.Uint8(1, uint8(c.protocol))
			e.Uint16(2, c.from.Port())
			e.Uint16(3, c.to.Port())
			return nil
		})
		return nil
	})
	data, err := e.Encode()
	require.NoError(t, err)
	// IPCTNL_MSG_CT_GET. Its answer claims to be one of several (ctnetlink_fill_info in net/netfilter/nf_conntrack_netlink.c), of which
	// the acknowledgement is then the last.
	const ctGet = 1
	all, err := f.kernel.Execute(conntrackMessage(ctGet, netlink.Acknowledge, family, data))
	if err != nil {
		require.ErrorIs(t, err, unix.ENOENT)
		return answers, false
	}
	require.NotEmpty(t, all)
	d, err := netlink.NewAttributeDecoder(all[0].Data[4:])
	require.NoError(t, err)
	var addr netip.Addr
	var port uint16
	for d.Next() {
		if d.Type() != ctTupleReply {
			continue
		}
		d.Nested(func(d *netlink.AttributeDecoder) error {
			for d.Next() {
				kind := d.Type()
				d.Nested(func(d *netlink.AttributeDecoder) error {
					d.ByteOrder = binary.BigEndian
					for d.Next() {
						switch {
						case kind == ctTupleIP && d.Type() == src:
							addr, _ = netip.AddrFromSlice(d.Bytes())
						case kind == ctTupleProto && d.Type() == 2:
							port = d.Uint16()
						}
					}
					return nil
				})
			}
			return nil
		})
	}
	require.NoError(t, d.Err())
	return netip.AddrPortFrom(addr, port), true
}

func conntrackMessage(kind uint16, flags netlink.HeaderFlags, family byte, attrs []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_CTNETLINK<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
}
