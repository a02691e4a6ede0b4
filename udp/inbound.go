package udp

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	// maxReceive is how many datagrams are received at a time, and fewReceive how many when they are large: what is not used soon
	// drops out of the processor's cache.
	maxReceive, fewReceive = 64, 8
	large                  = 16 << 10

	sockaddrLen = unix.SizeofSockaddrInet6
	ancillary   = 64
	datagramLen = 1 << 16
	// maxRuns is how many flows are joined at a time.
	maxRuns = 8
)

// inbound brings packets from one socket to a TUN queue.
type inbound struct {
	socket socketPort
	tun    tunPort
	tables *tables
	takes  supers // by the TUN
	total  *counters

	table    *table // of this batch
	count    tally
	messages []message
	vectors  []unix.Iovec
	names    []byte
	controls []byte
	data     []byte
	want     int // of messages, next time
	runs     [maxRuns]run
	oldest   int           // the run that is written when a new one finds no place
	parts    [2]unix.Iovec // of what is written
	noHeader [virtioLen]byte

	// Whom the last datagram, and the last packet, was from, and where it went: the next one's are the same as a rule.
	lastName    [sockaddrLen]byte
	lastNameLen uint32
	lastFrom    *peer
	passed      flow
	passedFrom  *peer
	passedWhy   Drop
	passedGood  bool
	recent      *run // that the last packet went into; nil if it went into none
	recentFrom  *peer
}

// flow is a pair of raw addresses.
type flow struct {
	addrs [32]byte
	len   int
}

func newInbound(s socketPort, tun tunPort, t *tables, takes supers, total *counters) *inbound {
	in := &inbound{socket: s, tun: tun, tables: t, takes: takes, total: total, want: maxReceive}
	in.messages = make([]message, maxReceive)
	in.vectors = make([]unix.Iovec, maxReceive)
	in.names = make([]byte, maxReceive*sockaddrLen)
	in.controls = make([]byte, maxReceive*ancillary)
	in.data = make([]byte, maxReceive*datagramLen)
	for i := range in.runs {
		in.runs[i].buf = make([]byte, runRoom+datagramLen)
	}
	for i := range in.messages {
		in.vectors[i] = part(in.data[i*datagramLen:][:datagramLen])
		m := &in.messages[i]
		m.Iov = &in.vectors[i]
		m.SetIovlen(1)
		m.Name = &in.names[i*sockaddrLen]
		m.Control = &in.controls[i*ancillary]
	}
	return in
}

// pump writes the packets in the datagrams that are there, some at a time, and reports whether there were any.
func (i *inbound) pump() (worked bool, err error) {
	ready := i.messages[:i.want]
	for n := range ready {
		m := &ready[n]
		m.Namelen = sockaddrLen
		m.SetControllen(ancillary)
		m.Flags = 0
	}
	n, err := i.socket.receive(ready)
	if err != nil {
		if errors.Is(err, errAgain) {
			err = nil
		}
		return false, err
	}
	i.table = i.tables.Load()
	i.lastNameLen, i.passed.len = 0, 0
	bytes := 0
	for k := range n {
		bytes += int(ready[k].Len)
		i.datagram(&ready[k], i.data[k*datagramLen:][:ready[k].Len], i.names[k*sockaddrLen:][:ready[k].Namelen],
			i.controls[k*ancillary:][:ready[k].Controllen])
	}
	i.flush()
	i.want = maxReceive
	if n > 0 && bytes/n > large {
		i.want = fewReceive
	}
	i.total.add(&i.count)
	return n > 0, nil
}

func (i *inbound) drop(why Drop, packets int) { i.count.drops[why] += uint64(packets) }

// datagram takes apart what was received as one.
func (i *inbound) datagram(m *message, b, name, control []byte) {
	size, tos := received(control)
	if size <= 0 || size > len(b) {
		size = max(1, len(b))
	}
	packets := max(1, (len(b)+size-1)/size)
	i.count.receivedPackets += uint64(packets)
	i.count.receivedBytes += uint64(len(b))
	from := i.from(name)
	switch {
	case from == nil:
		i.drop(UnknownSource, packets)
		return
	case m.Flags&unix.MSG_TRUNC != 0 || len(b) == 0:
		i.drop(Malformed, packets)
		return
	}
	for len(b) > 0 {
		n := min(size, len(b))
		i.packet(b[:n:n], from, tos&ecnField == ce)
		b = b[n:]
	}
}

// from is the peer that has the address in a struct sockaddr, or nil.
func (i *inbound) from(name []byte) *peer {
	if uint32(len(name)) == i.lastNameLen && string(name) == string(i.lastName[:len(name)]) {
		return i.lastFrom
	}
	i.lastNameLen = uint32(copy(i.lastName[:], name))
	i.lastFrom = nil
	if at, ok := parseSockaddr(name); ok {
		i.lastFrom = i.table.source(at)
	}
	return i.lastFrom
}

func parseSockaddr(b []byte) (at netip.AddrPort, ok bool) {
	switch {
	case len(b) >= 8 && native.Uint16(b) == unix.AF_INET:
		return netip.AddrPortFrom(addr(b[4:8]), binary.BigEndian.Uint16(b[2:])), true
	case len(b) >= 24 && native.Uint16(b) == unix.AF_INET6:
		return netip.AddrPortFrom(addr(b[8:24]), binary.BigEndian.Uint16(b[2:])), true
	}
	return at, false
}

// packet judges one packet, and writes it or puts it into a run.
func (i *inbound) packet(p []byte, from *peer, congested bool) {
	if i.recent != nil && from == i.recentFrom && !congested && i.recent.next(p) {
		return
	}
	in, ok := parse(p)
	if !ok {
		i.drop(Malformed, 1)
		return
	}
	p = p[:in.length]
	if why, ok := i.pass(&in, p, from); !ok {
		i.drop(why, 1)
		return
	}
	if congested && !in.congested(p) {
		i.drop(Congested, 1)
		return
	}
	i.recent, i.recentFrom = i.join(&in, p), from
}

// pass reports whether the packet may come in by that peer, and if not, why.
func (i *inbound) pass(in *inner, p []byte, from *peer) (Drop, bool) {
	addrs := p[v4Source:v4HeaderLen]
	if in.v6 {
		addrs = p[v6Source:v6HeaderLen]
	}
	if from == i.passedFrom && len(addrs) == i.passed.len && string(addrs) == string(i.passed.addrs[:len(addrs)]) {
		return i.passedWhy, i.passedGood
	}
	i.passed.len, i.passedFrom = copy(i.passed.addrs[:], addrs), from
	i.passedGood = false
	switch {
	case i.table.route(addr(in.source(p))) != from:
		i.passedWhy = Spoofed
	case i.table.route(addr(in.destination(p))) != nil:
		i.passedWhy = Misdirected
	default:
		i.passedGood = true
	}
	return i.passedWhy, i.passedGood
}

// join puts a packet into the run of its flow where that is possible, begins a run with it, or writes it alone. It returns the run.
func (i *inbound) join(in *inner, p []byte) *run {
	if in.transport == 0 {
		i.write(p)
		return nil
	}
	var free *run
	for k := range i.runs {
		r := &i.runs[k]
		if r.count == 0 {
			if free == nil { // the first, which is in the cache, and found first by the packets that follow
				free = r
			}
			continue
		}
		if !r.sameFlow(in, p) {
			continue
		}
		switch r.add(in, p) {
		case added:
			return r
		case damaged:
			i.drop(BadChecksum, 1)
			return nil
		}
		i.finish(r) // what the packet follows goes first
		free = r
		break
	}
	if !joinable(in, p, i.takes) {
		i.write(p)
		return nil
	}
	if free == nil {
		free = &i.runs[i.oldest]
		i.oldest = (i.oldest + 1) % maxRuns
		i.finish(free)
	}
	free.begin(in, p)
	return free
}

// finish writes a run.
func (i *inbound) finish(r *run) {
	switch r.count {
	case 0:
	case 1:
		i.write(r.first)
	default:
		header, p := r.seal()
		i.give(header, p, r.count)
	}
	r.count = 0
}

func (i *inbound) flush() {
	for k := range i.runs {
		i.finish(&i.runs[k])
	}
}

// write writes a packet as it came. The kernel checks its checksums as any network card's.
func (i *inbound) write(p []byte) { i.give(i.noHeader[:], p, 1) }

// give writes a packet, which has been made of so many.
func (i *inbound) give(header, p []byte, packets int) {
	i.parts[0], i.parts[1] = part(header), part(p)
	if err := i.tun.write(i.parts[:]); err != nil {
		i.drop(WriteFailed, packets)
	}
	i.count.writes++
}
