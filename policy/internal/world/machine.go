package world

import (
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/internal/sysctl"
	"github.com/podweft/podweft/testnet"
)

// Machine is a namespace that sends and receives.
type Machine struct {
	*testnet.Node
	handle  *netlink.Handle
	links   map[*Machine]int // to its neighbours
	send    [2]int           // sockets: IPv4, IPv6
	receive int
	behind  string // the node of a pod
}

func newMachine(t testing.TB, name string, router bool) *Machine {
	t.Helper()
	m := &Machine{Node: testnet.NewNode(t, name), links: map[*Machine]int{}}
	settings := []string{"net/ipv6/conf/default/accept_dad=0", "net/ipv4/conf/all/rp_filter=0", "net/ipv4/conf/default/rp_filter=0"}
	if router {
		settings = append(settings, "net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1")
	}
	must(t, m.Do(func() (err error) {
		for _, s := range settings {
			key, value, _ := strings.Cut(s, "=")
			if err := sysctl.EnsureHere(key, value); err != nil {
				return err
			}
		}
		return m.open()
	}))
	m.silence(t)
	_ = unix.SetsockoptInt(m.receive, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	t.Cleanup(func() {
		m.handle.Close()
		for _, fd := range []int{m.send[0], m.send[1], m.receive} {
			unix.Close(fd)
		}
	})
	return m
}

// open opens sockets in the namespace that it is called in.
func (m *Machine) open() (err error) {
	if m.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER); err != nil {
		return err
	}
	for i, family := range []int{unix.AF_INET, unix.AF_INET6} {
		if m.send[i], err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
			return err
		}
	}
	m.receive, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0x0300) // ETH_P_ALL
	return err
}

// silence has what arrives answered by nobody: an answer that comes when its connection is forgotten would look like a packet of ours.
func (m *Machine) silence(t testing.TB) {
	t.Helper()
	c, err := nft.Open(m.NetNS())
	must(t, err)
	defer c.Close()
	var b nft.Batch
	b.AddTable(silence, 0)
	b.AddChain(nft.Chain{Table: silence, Name: "input", Base: nft.Base{Type: "filter", Hook: nft.Input, Priority: -300, Policy: nft.Drop}})
	must(t, c.Commit(t.Context(), &b))
}

var silence = nft.Table{Family: nft.INet, Name: "silence"}

// Loud makes the machine answer what comes to it, which machines do not do.
func (m *Machine) Loud(t testing.TB) {
	t.Helper()
	c, err := nft.Open(m.NetNS())
	must(t, err)
	defer c.Close()
	var b nft.Batch
	b.AddTable(silence, 0) // if it is loud already
	b.DeleteTable(silence)
	must(t, c.Commit(t.Context(), &b))
}

// Deaf has the kernel throw away what the machine would read.
func (m *Machine) Deaf() { _ = unix.SetsockoptInt(m.receive, unix.SOL_SOCKET, unix.SO_RCVBUF, 1) }

// Forget makes the machine's kernel forget all connections.
func (m *Machine) Forget(t testing.TB) {
	t.Helper()
	must(t, m.handle.ConntrackTableFlush(netlink.ConntrackTable))
}

// lo is the machine's loopback link, which has the same number everywhere.
func (m *Machine) lo() netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}
}

// toward makes m send what goes to a prefix to its neighbour.
func (m *Machine) toward(t testing.TB, prefix string, neighbor *Machine) {
	t.Helper()
	must(t, m.handle.RouteReplace(m.route(t, prefix, neighbor)))
}

func (m *Machine) route(t testing.TB, prefix string, neighbor *Machine) *netlink.Route {
	t.Helper()
	_, to, err := net.ParseCIDR(prefix)
	must(t, err)
	via := linkTo
	if to.IP.To4() == nil {
		via = linkTo6
	}
	return &netlink.Route{Dst: to, Gw: net.ParseIP(via), LinkIndex: m.links[neighbor], Flags: int(netlink.FLAG_ONLINK)}
}

// Transmit sends a packet with its header.
func (m *Machine) Transmit(t testing.TB, b []byte) {
	t.Helper()
	fd, to := m.send[0], unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte(b[16:20])})
	if b[0]>>4 == 6 {
		fd, to = m.send[1], &unix.SockaddrInet6{Addr: [16]byte(b[24:40])}
	}
	if err := unix.Sendto(fd, b, 0, to); err != nil && err != unix.EPERM { // EPERM is a drop on the way out
		must(t, err)
	}
}

// Drain reads what has come in.
func (m *Machine) Drain(each func(b []byte)) {
	buf := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(m.receive, buf, 0)
		if err != nil {
			return
		}
		if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		each(buf[:n])
	}
}

// Heard reads what has come in, and reports whether the packet of that number is in it.
func (m *Machine) Heard(id uint32) (yes bool) {
	m.Drain(func(b []byte) {
		got, _, ok := Received(b)
		yes = yes || ok && got == id
	})
	return yes
}
