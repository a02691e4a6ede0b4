package fib

import (
	"net/netip"
	"testing"

	mdl "github.com/mdlayher/netlink"
	"github.com/stretchr/testify/assert"
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

// group makes a nexthop group that forwarding entries may go through, as EVPN has them, and returns its id.
func (m *machine) group(t testing.TB) uint32 {
	t.Helper()
	const nhaID, nhaGroup, nhaGateway, nhaFDB = 1, 2, 6, 11 // linux/nexthop.h
	const member, group = 71, 72
	var conn *mdl.Conn
	require.NoError(t, m.node.Do(func() (err error) {
		conn, err = mdl.Dial(unix.NETLINK_ROUTE, nil)
		return err
	}))
	defer conn.Close()
	create := func(family byte, id uint32, kind uint16, value []byte) {
		attrs := mdl.NewAttributeEncoder()
		attrs.Uint32(nhaID, id)
		attrs.Bytes(kind, value)
		attrs.Flag(nhaFDB, true)
		encoded, err := attrs.Encode()
		require.NoError(t, err)
		_, err = conn.Execute(mdl.Message{
			Header: mdl.Header{Type: unix.RTM_NEWNEXTHOP, Flags: mdl.Request | mdl.Acknowledge | mdl.Create},
			Data:   append([]byte{family, 0, someone, 0, 0, 0, 0, 0}, encoded...),
		})
		require.NoError(t, err)
	}
	create(unix.AF_INET, member, nhaGateway, m.neighborOf(70, false).AsSlice())
	create(unix.AF_UNSPEC, group, nhaGroup, []byte{member, 0, 0, 0, 0, 0, 0, 0})
	return group
}

// TestDetoursAreTakenOff: a forwarding entry to the right address may still lead nowhere, by what it says besides.
func TestDetoursAreTakenOff(t *testing.T) {
	for _, tt := range []struct {
		name   string
		detour func(t *testing.T, m *machine) nl.Detour
	}{
		{"another port", func(*testing.T, *machine) nl.Detour { return nl.Detour{Port: 4789} }},
		{"another VNI", func(*testing.T, *machine) nl.Detour { return nl.Detour{VNI: 7} }},
		{"another link", func(_ *testing.T, m *machine) nl.Detour { return nl.Detour{Underlay: m.eth0} }},
		{"a group", func(t *testing.T, m *machine) nl.Detour { return nl.Detour{Nexthop: m.group(t)} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWatched(t)
			e := w.peer(1, false)
			w.calm(t, e, w.peer(2, false))
			ours := e.Forwards[0]
			theirs := nl.Forward{ForwardKey: ours.ForwardKey, To: ours.To, Detour: tt.detour(t, w.machine)}
			if theirs.Nexthop != 0 {
				theirs.To = netip.Addr{} // the group has addresses
			}
			hints := w.hints.Load()
			w.must(t, func(b *nl.Batch) {
				b.DeleteForward(ours)
				b.SetForward(theirs)
			})
			w.heard(t)
			assert.Greater(t, w.hints.Load(), hints, "nobody was told to look")
			assert.Equal(t, theirs, w.kernel(t).forwards.at[ours.ForwardKey])

			plan := w.apply(t, e, w.peer(2, false))
			assert.Equal(t, "~ "+ours.Format("vx")+"\n", plan)
			w.requireInSync(t, e, w.peer(2, false))
			assert.Equal(t, ours, w.kernel(t).forwards.at[ours.ForwardKey])
			w.heard(t)
			assert.True(t, w.table.Trusted(w.scope), "its own echoes are no news")
			assert.Empty(t, w.apply(t, e, w.peer(2, false)))
		})
	}
}
