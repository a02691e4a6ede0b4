package nat_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/testnet"
)

// doors are a pod's port 80, which says who came.
type doors struct {
	tcp *net.TCPListener
	udp net.PacketConn
}

func newDoors(t *testing.T, pod *testnet.Node) (d doors) {
	t.Helper()
	require.NoError(t, pod.Do(func() error {
		l, err := net.Listen("tcp", ":80")
		if err != nil {
			return err
		}
		d.tcp = l.(*net.TCPListener)
		d.udp, err = net.ListenPacket("udp", ":80")
		return err
	}))
	t.Cleanup(func() {
		d.tcp.Close()
		d.udp.Close()
	})
	return d
}

// came is from where the next one comes.
func (d doors) came(t *testing.T, network string) netip.Addr {
	t.Helper()
	var from net.Addr
	end := time.Now().Add(patience)
	if network == "tcp" {
		require.NoError(t, d.tcp.SetDeadline(end))
		c, err := d.tcp.Accept()
		require.NoError(t, err)
		from = c.RemoteAddr()
		c.Close()
	} else {
		require.NoError(t, d.udp.SetDeadline(end))
		var err error
		_, from, err = d.udp.ReadFrom(make([]byte, 100))
		require.NoError(t, err)
	}
	return netip.MustParseAddrPort(from.String()).Addr().Unmap()
}

// TestHostIP: a port of one address of the node leads to the pod from there, and from no other address; another's leads elsewhere.
func TestHostIP(t *testing.T) {
	b := newBridged(t)
	pods := []doors{newDoors(t, b.pods[0]), newDoors(t, b.pods[1])}
	others := []netip.Addr{netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("2001:db8::200")}
	configure(t, b.node, func(h *netlink.Handle) { setUp(t, h, "eth0", []string{"192.0.2.200/32", "2001:db8::200/128"}) })
	var ports []nat.HostPort
	for i, own := range b.node.Addrs() {
		for _, p := range []nat.Protocol{nat.TCP, nat.UDP} {
			one, other, alone := hostPort(p, 9000, b.pods[0].Addrs()[i]), hostPort(p, 9000, b.pods[1].Addrs()[i]), hostPort(p, 9001, b.pods[0].Addrs()[i])
			one.HostIP, other.HostIP, alone.HostIP = own, others[i], own
			ports = append(ports, one, other, alone)
		}
	}
	require.NoError(t, b.ports.Add(t.Context(), ports, near...))
	for i, own := range b.node.Addrs() {
		another, outside := others[i], netip.MustParseAddr([]string{outside4, outside6}[i])
		gateway := netip.MustParseAddr([]string{"10.244.1.1", "fd00:244:0:1::1"}[i])
		for _, test := range []struct {
			name string
			from *testnet.Node
			to   netip.AddrPort
			pod  int
			seen netip.Addr // by the pod
		}{
			{"from outside", b.outside, netip.AddrPortFrom(own, 9000), 0, outside},
			{"from outside, the other address", b.outside, netip.AddrPortFrom(another, 9000), 1, outside},
			{"from outside, a port of one address", b.outside, netip.AddrPortFrom(own, 9001), 0, outside},
			{"from another pod", b.pods[1], netip.AddrPortFrom(own, 9000), 0, gateway},
			{"from the pod itself", b.pods[1], netip.AddrPortFrom(another, 9000), 1, gateway},
			{"from the node", b.node, netip.AddrPortFrom(own, 9000), 0, own},
		} {
			for _, network := range []string{"tcp", "udp"} {
				t.Run(test.name+" to "+network+" "+test.to.String(), func(t *testing.T) {
					var c net.Conn
					require.NoError(t, test.from.Do(func() (err error) {
						c, err = net.DialTimeout(network, test.to.String(), patience)
						return err
					}))
					defer c.Close()
					if network == "udp" {
						_, err := c.Write([]byte("who?"))
						require.NoError(t, err)
					}
					assert.Equal(t, test.seen, pods[test.pod].came(t, network))
				})
			}
		}
		for _, network := range []string{"tcp", "udp"} {
			to := netip.AddrPortFrom(another, 9001)
			assert.Equal(t, "no answer", ask(t, silence, b.outside, network, to), "the other address has no such port")
		}
	}
}
