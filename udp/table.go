package udp

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"

	"github.com/gaissmai/bart"
	"golang.org/x/sys/unix"
)

// peer is another node as the packet path sees it. It never changes.
type peer struct {
	at       netip.AddrPort
	sockaddr [unix.SizeofSockaddrInet6]byte // at, as the kernel wants it
	size     uint32                         // of what is used of sockaddr
}

func newPeer(at netip.AddrPort) *peer {
	p := &peer{at: at, size: unix.SizeofSockaddrInet6}
	family, address := uint16(unix.AF_INET6), p.sockaddr[8:24]
	if at.Addr().Is4() {
		p.size, family, address = unix.SizeofSockaddrInet4, unix.AF_INET, p.sockaddr[4:8]
	}
	native.PutUint16(p.sockaddr[:], family)
	binary.BigEndian.PutUint16(p.sockaddr[2:], at.Port())
	copy(address, at.Addr().AsSlice())
	return p
}

func (p *peer) v6() bool { return p.at.Addr().Is6() }

// table says where packets go and who may send them. It never changes: a new one shares with the old what is alike, so that one
// peer among thousands costs microseconds.
type table struct {
	routes  *bart.Table[*peer] // by the inner address
	sources *bart.Table[*peer] // by the outer one
	mtu     int                // of inner packets, in bytes
	// self are our addresses on the tunnel, of each family, from which ICMP errors come; the zero Addr where there is none.
	self [2]netip.Addr
}

func newTable() *table {
	return &table{routes: new(bart.Table[*peer]), sources: new(bart.Table[*peer])}
}

// tables is the table in force, for readers that never wait.
type tables = atomic.Pointer[table]

// route is who has the inner address, or nil.
func (t *table) route(a netip.Addr) *peer {
	p, _ := t.routes.Lookup(a)
	return p
}

// source is who sends from at, or nil.
func (t *table) source(at netip.AddrPort) *peer {
	p, _ := t.sources.Lookup(at.Addr())
	if p == nil || p.at.Port() != at.Port() {
		return nil
	}
	return p
}

// users counts the prefixes behind each underlay address. With the table that was made last it is what the next is made of.
type users struct {
	peers map[netip.Addr]*peer
	count map[netip.Addr]int
}

func newUsers() users { return users{peers: map[netip.Addr]*peer{}, count: map[netip.Addr]int{}} }

// with returns t without the peers removed and with those added. t itself stays as it is.
func (t *table) with(u users, port uint16, removed, added []Peer) *table {
	next := *t
	// What is added comes first where it can: a prefix that moves is never without a peer.
	fresh := make(map[netip.Prefix]*peer, len(added))
	for _, p := range added {
		to, ok := u.peers[p.Underlay]
		if !ok {
			to = newPeer(netip.AddrPortFrom(p.Underlay, port))
			u.peers[p.Underlay] = to
			next.sources = next.sources.InsertPersist(host(p.Underlay), to)
		}
		u.count[p.Underlay] += len(p.Prefixes)
		for _, prefix := range p.Prefixes {
			next.routes = next.routes.InsertPersist(prefix, to)
			fresh[prefix] = to
		}
	}
	for _, p := range removed {
		for _, prefix := range p.Prefixes {
			if fresh[prefix] == nil {
				next.routes = next.routes.DeletePersist(prefix)
			}
		}
		if u.count[p.Underlay] -= len(p.Prefixes); u.count[p.Underlay] == 0 {
			delete(u.count, p.Underlay)
			delete(u.peers, p.Underlay)
			next.sources = next.sources.DeletePersist(host(p.Underlay))
		}
	}
	return &next
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
