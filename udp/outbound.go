package udp

import (
	"encoding/binary"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxSegments is how many packets one datagram may be cut into: 64 before Linux 6.9 (UDP_MAX_SEGMENTS).
	maxSegments = 64
	// maxDatagram is the payload of the largest datagram: that of IPv4, so that one rule does for both.
	maxDatagram = 65535 - v4HeaderLen - udpHeaderLen
	// maxGroups is how many datagrams are filled at a time.
	maxGroups = 32

	// maxRead is the largest that a TUN hands out: a super-packet and what is in front of it.
	maxRead = virtioLen + 65535 + v6HeaderLen
	// batchBytes is how much is read before anything is sent. With less, the rests of super-packets, 45 packets where a datagram takes 44,
	// go alone; with more, it drops out of the processor's cache before it is sent.
	batchBytes = 384 << 10
)

// outbound brings packets from one TUN queue to the peers.
type outbound struct {
	tun     tunPort
	sockets [2]socketPort // by family: IPv4, IPv6; nil where the underlay has none
	tables  *tables
	limit   *limiter // of ICMP errors
	total   *counters

	table  *table // of this batch
	count  tally
	buf    []byte // what was read last
	groups []group
	n      int        // of groups in use
	latest [256]uint8 // the last group that a flow is in, counted from 1, by the flow's hash: its packets must not overtake
	out    [2][]message
	order  [2][]*group // the groups of out
	// whole: the underlay cannot send datagrams to be cut, so each packet is sent alone.
	whole [2]bool
	alone [1]message // one that is sent by itself
	reply [maxReply]byte
	parts [2]unix.Iovec // of reply: the virtio header, the packet

	// What the last packet's destination led to, which the next one's is as a rule.
	lastAddr [16]byte
	lastLen  int
	lastPeer *peer
}

// group is a datagram being filled: packets of one size, the last of which may be shorter, for one peer.
type group struct {
	to     *peer
	size   int
	tos    byte
	closed bool // by a shorter packet
	count  int  // of packets
	bytes  int
	buf    []byte     // the packets
	part   unix.Iovec // what is sent of buf
	extra  control
}

func newOutbound(tun tunPort, sockets [2]socketPort, t *tables, l *limiter, total *counters) *outbound {
	o := &outbound{tun: tun, sockets: sockets, tables: t, limit: l, total: total}
	o.buf = make([]byte, maxRead)
	o.groups = make([]group, maxGroups)
	room := make([]byte, maxGroups*datagramLen)
	for i := range o.groups {
		o.groups[i].buf = room[i*datagramLen:][:datagramLen:datagramLen]
	}
	for i := range o.out {
		o.out[i], o.order[i] = make([]message, maxGroups), make([]*group, maxGroups)
	}
	return o
}

// pump sends the packets that are there, up to batchBytes, and reports whether there were any.
func (o *outbound) pump() (worked bool, err error) {
	o.table = o.tables.Load()
	o.lastLen = 0
	for bytes := 0; bytes <= batchBytes; {
		n, failure := o.tun.read(o.buf)
		if failure != nil {
			err = failure
			break
		}
		o.packet(o.buf[:n])
		bytes += n
		worked = true
	}
	if worked {
		o.send()
		o.total.add(&o.count)
	}
	if errors.Is(err, errAgain) {
		err = nil
	}
	return worked, err
}

func (o *outbound) drop(why Drop, packets int) { o.count.drops[why] += uint64(packets) }

// packet does with one packet, or super-packet, what a router does.
func (o *outbound) packet(b []byte) {
	if len(b) < virtioLen {
		o.drop(Malformed, 1)
		return
	}
	h, p := parseVirtio(b), b[virtioLen:]
	in, ok := parse(p)
	if !ok {
		o.drop(Malformed, 1)
		return
	}
	p = p[:in.length]
	largest, packets := in.length, 1
	if h.gsoType != gsoNone {
		if in.reach(h, p); !h.fits(&in) {
			o.drop(Malformed, 1)
			return
		}
		largest = in.headLen + min(int(h.gsoSize), in.length-in.headLen)
		packets = (in.length - in.headLen + int(h.gsoSize) - 1) / int(h.gsoSize)
	}
	to := o.route(in.destination(p))
	switch hops := p[in.hops()]; {
	case to == nil || o.sockets[family(to)] == nil:
		o.drop(NoPeer, packets)
		o.refuse(p, in, unreachable)
		return
	case hops <= 1:
		o.drop(HopLimit, packets)
		o.refuse(p, in, timeExceeded)
		return
	case largest > o.table.mtu && (in.v6 || p[v4Fragment]&(v4DontFragment>>8) != 0):
		o.drop(TooBig, packets)
		o.refuse(p, in, tooBig)
		return
	}
	in.decrementHops(p)
	if h.gsoType != gsoNone {
		o.cut(h, p, &in, to)
		return
	}
	if !h.complete(p) {
		o.drop(Malformed, 1)
		return
	}
	g := o.group(to, len(p), in.tos(p), flowOf(&in, p))
	copy(g.add(len(p)), p)
}

func family(p *peer) int {
	if p.v6() {
		return 1
	}
	return 0
}

// fits reports whether the packet is what its virtioHeader says.
func (h virtioHeader) fits(in *inner) bool {
	if h.gsoSize == 0 || in.length == in.headLen {
		return false
	}
	switch h.gsoType {
	case gsoTCPv4:
		return in.transport == unix.IPPROTO_TCP && !in.v6
	case gsoTCPv6:
		return in.transport == unix.IPPROTO_TCP && in.v6
	case gsoUDP:
		return in.transport == unix.IPPROTO_UDP
	}
	return false
}

// route is who has the destination, or nil.
func (o *outbound) route(raw []byte) *peer {
	if len(raw) == o.lastLen && string(raw) == string(o.lastAddr[:o.lastLen]) {
		return o.lastPeer
	}
	o.lastLen = copy(o.lastAddr[:], raw)
	o.lastPeer = o.table.route(addr(raw))
	return o.lastPeer
}

// flowOf is a small hash of addresses and ports.
func flowOf(in *inner, p []byte) uint8 {
	h := native.Uint32(in.source(p)[len(in.source(p))-4:]) ^ native.Uint32(in.destination(p)[len(in.destination(p))-4:])
	if in.transport != 0 {
		h ^= native.Uint32(p[in.ipLen:]) // both ports
	}
	return uint8((h * 0x9e3779b1) >> 24)
}

// group returns a datagram that a packet of this size fits into. A packet may not go into one that is sent before another with
// packets of its flow: it would overtake.
func (o *outbound) group(to *peer, size int, tos, flow uint8) *group {
	for i := o.n - 1; i >= 0 && i+1 >= int(o.latest[flow]); i-- {
		g := &o.groups[i]
		if g.to == to && g.size == size && g.tos == tos && g.room(size) {
			o.latest[flow] = uint8(i + 1)
			return g
		}
	}
	if o.n == maxGroups {
		o.send()
	}
	g := &o.groups[o.n]
	o.n++
	o.latest[flow] = uint8(o.n)
	g.to, g.size, g.tos = to, size, tos
	g.closed, g.count, g.bytes = false, 0, 0
	return g
}

func (g *group) room(size int) bool {
	return !g.closed && g.count < maxSegments && g.bytes+size <= maxDatagram
}

// add makes room for a packet of this size, and returns it.
func (g *group) add(size int) []byte {
	room := g.buf[g.bytes:][:size]
	g.count++
	g.bytes += size
	g.closed = size < g.size
	return room
}

// send sends all groups.
func (o *outbound) send() {
	var n [2]int
	for i := range o.groups[:o.n] {
		g := &o.groups[i]
		f := family(g.to)
		if o.whole[f] && g.count > 1 {
			o.sendAll(f, n[f]) // in order
			n[f] = 0
			o.sendSingly(g)
			continue
		}
		cut := 0
		if g.count > 1 {
			cut = g.size
		}
		g.extra.set(f == 1, cut, g.tos)
		g.part = part(g.buf[:g.bytes])
		o.address(&o.out[f][n[f]], g)
		o.order[f][n[f]] = g
		n[f]++
	}
	for f := range n {
		o.sendAll(f, n[f])
	}
	o.n = 0
	clear(o.latest[:])
}

// address says in m to whom g goes, and how, and that it is g's part.
func (o *outbound) address(m *message, g *group) {
	m.Iov = &g.part
	m.SetIovlen(1)
	m.Name = (*byte)(unsafe.Pointer(&g.to.sockaddr))
	m.Namelen = g.to.size
	m.Control = nil
	m.SetControllen(g.extra.len)
	if g.extra.len > 0 {
		m.Control = &g.extra.buf[0]
	}
}

// sendAll sends the first n messages of a family.
func (o *outbound) sendAll(f, n int) {
	for done := 0; done < n; {
		sent, err := o.sockets[f].send(o.out[f][done:n])
		for _, g := range o.order[f][done : done+sent] {
			o.count.sentPackets += uint64(g.count)
			o.count.sentBytes += uint64(g.bytes)
			o.count.sends++
		}
		if done += sent; err == nil {
			continue
		}
		if done < n {
			o.failed(o.order[f][done], err)
			done++
		}
	}
}

// failed handles a datagram that the kernel did not take.
func (o *outbound) failed(g *group, err error) {
	switch {
	case g.count == 1:
		o.drop(SendFailed, 1)
	case errors.Is(err, unix.EIO):
		// The device cannot compute checksums (udp_send_skb in net/ipv4/udp.c): cutting will never work there.
		o.whole[family(g.to)] = true
		o.sendSingly(g)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EMSGSIZE):
		// A packet does not fit through the device. Alone it is cut into fragments.
		o.sendSingly(g)
	default:
		o.drop(SendFailed, g.count)
	}
}

// sendSingly sends the packets of a group one by one.
func (o *outbound) sendSingly(g *group) {
	f := family(g.to)
	g.extra.set(f == 1, 0, g.tos)
	m := o.alone[:]
	o.address(&m[0], g)
	for b := g.buf[:g.bytes]; len(b) > 0; {
		n := min(len(b), g.size)
		g.part = part(b[:n])
		b = b[n:]
		if _, err := o.sockets[f].send(m); err != nil {
			o.drop(SendFailed, 1)
			continue
		}
		o.count.sentPackets++
		o.count.sentBytes += uint64(n)
		o.count.sends++
	}
}

// cut makes packets of a super-packet, each with a header of its own. The payload is copied where the header is: the sum has to pass
// over it anyway, and from hundreds of small pieces the kernel copies half as fast as from one.
func (o *outbound) cut(h virtioHeader, p []byte, in *inner, to *peer) {
	head, payload := p[:in.headLen], p[in.headLen:]
	step := int(h.gsoSize)
	c := newCutter(head, in)
	tos, flow := in.tos(p), flowOf(in, p)
	var g *group
	for at := 0; at < len(payload); at += step {
		data := payload[at:min(at+step, len(payload))]
		size := len(head) + len(data)
		if g == nil || size > g.size || !g.room(size) {
			g = o.group(to, size, tos, flow)
		}
		c.next(g.add(size), data, at+step >= len(payload))
	}
}

// cutter writes the headers of the packets that a super-packet is cut into.
type cutter struct {
	head     []byte // with the fields that differ set to 0
	in       *inner
	ip, rest uint64 // sums of the IPv4 header, and of pseudo-header and transport header, without those fields
	id       uint16
	sequence uint32
	flags    byte
	first    bool
}

func newCutter(head []byte, in *inner) cutter {
	c := cutter{head: head, in: in, first: true}
	if !in.v6 {
		c.id = binary.BigEndian.Uint16(head[v4ID:])
		clear(head[v4Length : v4ID+2])
		clear(head[v4Checksum : v4Checksum+2])
		c.ip = sum(head[:in.ipLen], 0)
	}
	pseudo := in.pseudo(head)
	if in.v6 && in.ipLen > v6HeaderLen {
		pseudo = in.left(head)
	}
	clear(head[in.checksumAt() : in.checksumAt()+2])
	t := head[in.ipLen:]
	if in.transport == unix.IPPROTO_TCP {
		c.sequence, c.flags = binary.BigEndian.Uint32(t[tcpSequence:]), t[tcpFlags]
		clear(t[tcpSequence : tcpSequence+4])
		t[tcpFlags] = 0
	} else {
		clear(t[udpLength : udpLength+2])
	}
	c.rest = sum(t, pseudo)
	return c
}

// next writes into p the next packet, whose payload is data.
func (c *cutter) next(p, data []byte, last bool) {
	length, head := len(p), p[:len(c.head)]
	copy(head, c.head)
	if c.in.v6 {
		binary.BigEndian.PutUint16(head[v6Length:], uint16(length-v6HeaderLen))
	} else {
		binary.BigEndian.PutUint16(head[v4Length:], uint16(length))
		binary.BigEndian.PutUint16(head[v4ID:], c.id)
		putChecksum(head[v4Checksum:], plus(c.ip, word(uint16(length))+word(c.id)))
		c.id++
	}
	t := head[c.in.ipLen:]
	size := uint16(len(t) + len(data))
	acc := plus(copySum(p[len(head):], data, c.rest), word(size))
	if c.in.transport == unix.IPPROTO_UDP {
		binary.BigEndian.PutUint16(t[udpLength:], size)
		putChecksum(t[udpChecksum:], plus(acc, word(size)))
		if native.Uint16(t[udpChecksum:]) == 0 {
			native.PutUint16(t[udpChecksum:], 0xffff)
		}
		return
	}
	flags := c.flags
	if !last {
		flags &^= tcpFIN | tcpPSH
	}
	if !c.first {
		flags &^= tcpCWR
	}
	c.first = false
	binary.BigEndian.PutUint32(t[tcpSequence:], c.sequence)
	t[tcpFlags] = flags
	acc = plus(acc, word(uint16(c.sequence>>16))+word(uint16(c.sequence))+word(uint16(flags)))
	putChecksum(t[tcpChecksum:], acc)
	c.sequence += uint32(len(data))
}
