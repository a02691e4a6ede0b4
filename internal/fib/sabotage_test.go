package fib

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nl"
)

// handle opens vishvananda/netlink in the node, for what a person would do there with bridge and we never do.
func (m *machine) handle(t testing.TB) *netlink.Handle {
	t.Helper()
	var h *netlink.Handle
	require.NoError(t, m.node.Do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	}))
	t.Cleanup(h.Close)
	return h
}

// appendForward adds f to the destinations of its MAC.
func (m *machine) appendForward(t testing.TB, f nl.Forward) {
	t.Helper()
	require.NoError(t, m.handle(t).NeighAppend(&netlink.Neigh{
		LinkIndex: f.Link, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT,
		IP: f.To.AsSlice(), HardwareAddr: f.MAC[:],
	}))
}
