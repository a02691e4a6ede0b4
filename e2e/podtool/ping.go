package main

import (
	"encoding/binary"
	"net"
	"os"
	"sync"
	"time"
)

const (
	every = 5 * time.Millisecond
	late  = 3 * time.Second // an answer that comes after this is none
)

// flow is a row of echo requests to one address.
type flow struct {
	conn     net.PacketConn
	to       *net.IPAddr
	v6       bool
	id       uint16
	sent     int
	stop     chan struct{}
	done     sync.WaitGroup
	answered map[int]bool // by the reader alone, until it has ended
}

func begin(to net.IP) (*flow, error) {
	v6 := to.To4() == nil
	network, from := "ip4:icmp", "0.0.0.0"
	if v6 {
		network, from = "ip6:ipv6-icmp", "::"
	}
	conn, err := net.ListenPacket(network, from)
	if err != nil {
		return nil, err
	}
	f := &flow{conn: conn, to: &net.IPAddr{IP: to}, v6: v6, id: uint16(os.Getpid()), stop: make(chan struct{}), answered: map[int]bool{}}
	f.done.Go(f.send)
	f.done.Go(f.receive)
	return f, nil
}

// end waits for the last answers.
func (f *flow) end() (sent, lost int) {
	close(f.stop)
	f.done.Wait()
	_ = f.conn.Close()
	return f.sent, f.sent - len(f.answered)
}

func (f *flow) send() {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-f.stop:
			_ = f.conn.SetReadDeadline(time.Now().Add(late))
			return
		case <-tick.C:
		}
		// What cannot be sent is lost.
		_, _ = f.conn.WriteTo(f.request(f.sent), f.to)
		f.sent++
	}
}

// The types of messages (RFC 792, RFC 4443).
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// request is an echo request. Its number is in the data, for the sequence number of the protocol begins again after a while.
func (f *flow) request(n int) []byte {
	b := make([]byte, 16)
	b[0] = echoRequest4
	binary.BigEndian.PutUint16(b[4:], f.id)
	binary.BigEndian.PutUint16(b[6:], uint16(n))
	binary.BigEndian.PutUint64(b[8:], uint64(n))
	if f.v6 {
		b[0] = echoRequest6
		return b // the kernel sums, with the addresses
	}
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum))
	return b
}

func (f *flow) receive() {
	reply := byte(echoReply4)
	if f.v6 {
		reply = echoReply6
	}
	b := make([]byte, 1500)
	for {
		n, from, err := f.conn.ReadFrom(b) // without the IPv4 header, unlike Read
		if err != nil {
			return
		}
		if n == 16 && b[0] == reply && binary.BigEndian.Uint16(b[4:]) == f.id && from.(*net.IPAddr).IP.Equal(f.to.IP) {
			f.answered[int(binary.BigEndian.Uint64(b[8:]))] = true
		}
	}
}
