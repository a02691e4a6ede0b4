// Package loopback finds places for servers of tests.
package loopback

import (
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// given are the addresses that a test has been told: its servers may not listen yet, and the kernel chooses each time anew.
var given sync.Map

// FreeURL is a URL on the loopback that nobody listens at just now, and that no other call returns.
func FreeURL(t testing.TB) string {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		address := l.Addr().String()
		require.NoError(t, l.Close())
		if _, twice := given.LoadOrStore(address, true); !twice {
			return "http://" + address
		}
	}
}
