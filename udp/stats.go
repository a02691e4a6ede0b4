package udp

import "sync/atomic"

// Drop is why a packet was not passed on.
type Drop uint8

// The reasons, first those of packets from pods, then those of packets from the wire.
const (
	NoPeer     Drop = iota // no peer has the destination; the sender was told by ICMP
	HopLimit               // the TTL or hop limit has run out; told by ICMP
	TooBig                 // it does not fit into the tunnel and must not be fragmented; told by ICMP
	SendFailed             // the kernel did not take it for the underlay

	UnknownSource // the datagram is from no peer
	Spoofed       // the inner source is not behind the peer that sent it
	Misdirected   // the inner destination is behind another node
	Malformed     // not an IP packet, or not wholly there; also of packets from pods
	BadChecksum   // damaged on its way
	Congested     // the tunnel met congestion, which the packet has no way to tell (RFC 6040)
	WriteFailed   // the kernel did not take it from the tunnel

	drops int = iota
)

var dropNames = [drops]string{
	"no peer", "hop limit", "too big", "send failed",
	"unknown source", "spoofed", "misdirected", "malformed", "bad checksum", "congested", "write failed",
}

// String is the reason in words.
func (d Drop) String() string {
	if int(d) < len(dropNames) {
		return dropNames[d]
	}
	return "unknown reason"
}

// Stats are counters since New. Packets are inner packets as they were on the wire, each in a datagram of its own.
type Stats struct {
	// Listings is how often the kernel's tables were read whole. It stays put while nobody interferes.
	Listings uint64

	SentPackets, SentBytes         uint64
	ReceivedPackets, ReceivedBytes uint64
	// Sends is the number of datagrams handed to the kernel, each of which it may cut into many packets; Writes that of packets
	// handed to it from the tunnel, each of which may be many that were received.
	Sends, Writes uint64
	// Drops counts packets by the reason why they were not passed on. It has every reason.
	Drops map[Drop]uint64
}

// tally is what a worker has counted in one batch.
type tally struct {
	sentPackets, sentBytes         uint64
	receivedPackets, receivedBytes uint64
	sends, writes                  uint64
	drops                          [drops]uint64
}

// counters are the tallies of all workers together.
type counters struct {
	sentPackets, sentBytes         atomic.Uint64
	receivedPackets, receivedBytes atomic.Uint64
	sends, writes                  atomic.Uint64
	drops                          [drops]atomic.Uint64
}

// add takes over what t has counted and clears it. Once a batch: the counters of several workers share cache lines.
func (c *counters) add(t *tally) {
	for _, one := range [...]struct {
		to *atomic.Uint64
		n  uint64
	}{
		{&c.sentPackets, t.sentPackets},
		{&c.sentBytes, t.sentBytes},
		{&c.receivedPackets, t.receivedPackets},
		{&c.receivedBytes, t.receivedBytes},
		{&c.sends, t.sends},
		{&c.writes, t.writes},
	} {
		if one.n != 0 {
			one.to.Add(one.n)
		}
	}
	for i, n := range t.drops {
		if n != 0 {
			c.drops[i].Add(n)
		}
	}
	*t = tally{}
}

func (c *counters) stats() Stats {
	s := Stats{
		SentPackets: c.sentPackets.Load(), SentBytes: c.sentBytes.Load(),
		ReceivedPackets: c.receivedPackets.Load(), ReceivedBytes: c.receivedBytes.Load(),
		Sends: c.sends.Load(), Writes: c.writes.Load(),
		Drops: make(map[Drop]uint64, drops),
	}
	for i := range c.drops {
		s.Drops[Drop(i)] = c.drops[i].Load()
	}
	return s
}
