package world

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/testnet"
)

// Log is a listener to what a node's kernel logs to a group of NFLOG.
type Log struct{ sock *netlink.Conn }

// The numbers of linux/netfilter/nfnetlink_log.h that it takes.
const (
	packetLogged = unix.NFNL_SUBSYS_ULOG << 8
	configure    = unix.NFNL_SUBSYS_ULOG<<8 | 1

	command   = 1 // NFULA_CFG_CMD
	bind      = 1 // NFULNL_CFG_CMD_BIND
	threshold = 5 // NFULA_CFG_QTHRESH
	prefix    = 10
)

// Listen listens to a group. Each packet is told at once: by itself the kernel waits until there are a hundred, or for a second.
func Listen(t testing.TB, n *testnet.Node, group uint16) *Log {
	t.Helper()
	l := &Log{}
	must(t, n.Do(func() (err error) {
		l.sock, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	}))
	t.Cleanup(func() { l.sock.Close() })
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: command, Data: []byte{bind}}, {Type: threshold, Data: binary.BigEndian.AppendUint32(nil, 1)},
	})
	must(t, err)
	_, err = l.sock.Execute(netlink.Message{
		Header: netlink.Header{Type: configure, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, 0}, group), attrs...), // struct nfgenmsg
	})
	must(t, err)
	return l
}

// Prefix waits for the next packet and returns what is said of it.
func (l *Log) Prefix(t testing.TB) string {
	t.Helper()
	must(t, l.sock.SetReadDeadline(time.Now().Add(Patience)))
	for {
		messages, err := l.sock.Receive()
		must(t, err)
		for _, m := range messages {
			if m.Header.Type != packetLogged || len(m.Data) < 4 {
				continue
			}
			attrs, err := netlink.UnmarshalAttributes(m.Data[4:])
			must(t, err)
			for _, a := range attrs {
				if a.Type == prefix {
					return strings.TrimRight(string(a.Data), " \x00")
				}
			}
		}
	}
}
