package nlsock_test

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nlsock"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// request asks for lo.
var request = []byte{
	0: 32, 4: unix.RTM_GETLINK, 6: unix.NLM_F_REQUEST, 8: 7, // length, kind, flags, sequence number
	20: 1, 31: 0, // its index
}

func send(s *nlsock.Socket) (err error) {
	werr := s.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return err != unix.EAGAIN
	})
	if werr != nil {
		return werr
	}
	return err
}

func receive(s *nlsock.Socket) (n int, err error) {
	rerr := s.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), make([]byte, 1<<16), 0)
		return err != unix.EAGAIN
	})
	if rerr != nil {
		return 0, rerr
	}
	return n, err
}

func TestAsksAndHears(t *testing.T) {
	node := testnet.NewNode(t, "node")
	s, err := nlsock.Dial(node.NetNS(), unix.NETLINK_ROUTE)
	require.NoError(t, err)
	s.Set(unix.NETLINK_CAP_ACK, unix.NETLINK_EXT_ACK)
	for range 3 {
		require.NoError(t, send(s))
		n, err := receive(s)
		require.NoError(t, err)
		assert.Greater(t, n, 100)
	}
	require.NoError(t, s.Close())
	assert.ErrorIs(t, s.Close(), net.ErrClosed)
	assert.ErrorIs(t, send(s), net.ErrClosed)
}

func TestCloseEndsWaiting(t *testing.T) {
	node := testnet.NewNode(t, "node")
	s, err := nlsock.Dial(node.NetNS(), unix.NETLINK_ROUTE)
	require.NoError(t, err)
	ended := make(chan error, 1)
	waits := make(chan struct{})
	go func() {
		first := true
		ended <- s.Read(func(uintptr) bool {
			if first {
				close(waits)
			}
			first = false
			return false
		})
	}()
	<-waits
	require.NoError(t, s.Close())
	select {
	case err := <-ended:
		assert.ErrorIs(t, err, net.ErrClosed)
	case <-time.After(20 * time.Second):
		require.Fail(t, "still waits")
	}
}

func TestDialNowhere(t *testing.T) {
	_, err := nlsock.Dial("/run/netns/no-such-namespace", unix.NETLINK_ROUTE)
	assert.ErrorIs(t, err, unix.ENOENT)
}
