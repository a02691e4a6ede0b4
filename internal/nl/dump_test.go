package nl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// vtepOf is a VTEP over eth0 of a node.
func vtepOf(name string, vni uint32, local netip.Addr, eth0 int) Link {
	return Link{
		Name: name, Alias: "test", Kind: "vxlan", MAC: podweft.MAC{0x0e, 1, 0, 0, 0, byte(vni)}, MTU: 1430, Up: true,
		VXLAN: VXLAN{VNI: vni, Port: 8472, Local: local, Underlay: eth0, Checksum: local.Is6()},
	}
}

// newVTEP makes a VTEP named vx and returns its index.
func newVTEP(t testing.TB, c *Conn, local netip.Addr, eth0 int) int {
	t.Helper()
	require.Nil(t, c.do(t, func(b *Batch) { b.AddVXLAN(vtepOf("vx", 1, local, eth0)) }))
	l, err := c.Link("vx")
	require.NoError(t, err)
	return l.Index
}

func neighborOf(i, link int) Neighbor {
	return Neighbor{NeighborKey{link, routeTo(i, link, i%2 == 0).Prefix.Addr()}, podweft.MAC{0x0e, 2, 0, 0, byte(i >> 8), byte(i)}}
}

func forwardOf(i, link int) Forward {
	return Forward{ForwardKey: ForwardKey{link, podweft.MAC{0x0e, 2, 0, 0, byte(i >> 8), byte(i)}}, To: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})}
}

func nexthopOf(i, link int) Nexthop {
	return Nexthop{ID: 1<<30 + uint32(i), Protocol: protocol, Gateway: netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), Link: link, Onlink: true}
}

// TestListsWhatWasWritten writes entries of all kinds and reads them back as they were.
func TestListsWhatWasWritten(t *testing.T) {
	n, c, eth0 := newNode(t)
	vx := newVTEP(t, c, n.V4, eth0)
	const many = 300
	neighbors, forwards := map[NeighborKey]Neighbor{}, map[ForwardKey]Forward{}
	nexthops, routes := map[uint32]Nexthop{}, map[RouteKey]Route{}
	require.Nil(t, c.do(t, func(b *Batch) {
		for i := range many {
			neighbor, forward, nexthop := neighborOf(i, vx), forwardOf(i, vx), nexthopOf(i, vx)
			neighbors[neighbor.NeighborKey], forwards[forward.ForwardKey], nexthops[nexthop.ID] = neighbor, forward, nexthop
			b.SetNeighbor(neighbor)
			b.SetForward(forward)
			b.AddNexthop(nexthop)
			// The kernel lists a route through a nexthop object with the object's gateway too.
			through := Route{
				RouteKey: RouteKey{Table: TableMain + uint32(i%2)*1000, Prefix: routeTo(i, 0, false).Prefix}, Protocol: protocol,
				Type: unix.RTN_UNICAST, Nexthop: nexthop.ID, Gateway: nexthop.Gateway, Link: vx, Onlink: true,
			}
			over := routeTo(i, eth0, true)
			over.Metric = 1024 + uint32(i)
			for _, r := range []Route{through, over} {
				routes[r.RouteKey] = r
				b.AddRoute(r)
			}
		}
	}))

	t.Run("routes", func(t *testing.T) { assert.Equal(t, routes, c.listed(t)) })
	t.Run("nexthops", func(t *testing.T) {
		got := map[uint32]Nexthop{}
		require.NoError(t, c.Nexthops(t.Context(), func() { clear(got) }, func(nh Nexthop) { got[nh.ID] = nh }))
		assert.Equal(t, nexthops, got)
	})
	t.Run("neighbours", func(t *testing.T) {
		assert.Equal(t, neighbors, c.neighborsOf(t, vx))
		assert.Empty(t, c.neighborsOf(t, eth0), "of no other link, and none that is not permanent")
	})
	t.Run("forwarding entries", func(t *testing.T) {
		got := map[ForwardKey]Forward{}
		require.NoError(t, c.Forwards(t.Context(), vx, func() { clear(got) }, func(f Forward) { got[f.ForwardKey] = f }))
		assert.Equal(t, forwards, got)
	})
	t.Run("deleted", func(t *testing.T) {
		require.Nil(t, c.do(t, func(b *Batch) {
			for _, r := range routes {
				b.DeleteRoute(r)
			}
			for id := range nexthops {
				b.DeleteNexthop(id)
			}
			for _, f := range forwards {
				b.DeleteForward(f)
			}
			for k := range neighbors {
				b.DeleteNeighbor(k)
			}
		}))
		assert.Empty(t, c.listed(t))
		assert.Empty(t, c.neighborsOf(t, vx))
	})
}

func (c *Conn) neighborsOf(t testing.TB, link int) map[NeighborKey]Neighbor {
	t.Helper()
	all := map[NeighborKey]Neighbor{}
	require.NoError(t, c.Neighbors(t.Context(), link, func() { clear(all) }, func(n Neighbor) { all[n.NeighborKey] = n }))
	return all
}

// TestDeleteRouteSparesAnothers: a route of another protocol, or through another nexthop, at the same key is not ours.
func TestDeleteRouteSparesAnothers(t *testing.T) {
	n, c, eth0 := newNode(t)
	for i, gateway := range []netip.Addr{n.V4.Next(), n.V6.Next()} {
		theirs := routeTo(1, eth0, gateway.Is6())
		nexthop := Nexthop{ID: uint32(1000 + i), Protocol: protocol, Gateway: gateway, Link: eth0}
		require.Nil(t, c.do(t, func(b *Batch) {
			b.AddRoute(theirs)
			b.AddNexthop(nexthop)
		}))
		ours := theirs
		ours.Protocol++
		byID := theirs
		byID.Nexthop = nexthop.ID
		byNoID := theirs
		byNoID.Nexthop = 999
		errs := c.do(t, func(b *Batch) {
			b.DeleteRoute(ours)
			b.DeleteRoute(byID)
			b.DeleteRoute(byNoID)
		})
		require.Len(t, errs, 3)
		assert.ErrorIs(t, errs[0], unix.ESRCH)
		assert.ErrorIs(t, errs[1], unix.ESRCH)
		assert.ErrorIs(t, errs[2], unix.EINVAL, "the kernel's word for a nexthop that does not exist")
		require.Nil(t, c.do(t, func(b *Batch) { b.DeleteRoute(theirs) }))
	}
}

// churn changes the kernel with another Conn until the returned function is called. Each round of change has to succeed.
func churn(t *testing.T, c *Conn, change func(b *Batch, round int)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for round := 0; ctx.Err() == nil; round++ {
			var b Batch
			change(&b, round)
			for _, err := range c.Do(context.Background(), &b) {
				assert.NoError(t, err)
			}
		}
	}()
	return func() { cancel(); <-done }
}

// TestListingsUnderChurnAreWhole lists 2,000 stable entries while others come and go between them. A listing is whole or it is
// an error: a stable entry that it leaves out would be taken for deleted.
func TestListingsUnderChurnAreWhole(t *testing.T) {
	const many, rounds = 2400, 60
	isStable := func(i int) bool { return i%6 != 5 }
	n, c, eth0 := newNode(t)
	for _, tt := range []struct {
		name     string
		add, del func(b *Batch, i int)
		list     func() (map[int]bool, error) // of the entries, by number
	}{
		{
			"IPv4 routes",
			func(b *Batch, i int) { b.AddRoute(routeTo(i, eth0, false)) },
			func(b *Batch, i int) { b.DeleteRoute(routeTo(i, eth0, false)) },
			func() (map[int]bool, error) {
				seen := map[int]bool{}
				err := c.Routes(t.Context(), func() { clear(seen) }, func(r Route) {
					if a := r.Prefix.Addr(); a.Is4() && r.Protocol == protocol {
						seen[int(a.As4()[1])<<8|int(a.As4()[2])] = true
					}
				})
				return seen, err
			},
		},
		{
			"nexthops",
			func(b *Batch, i int) { b.AddNexthop(nexthopOf(i, eth0)) },
			func(b *Batch, i int) { b.DeleteNexthop(nexthopOf(i, eth0).ID) },
			func() (map[int]bool, error) {
				seen := map[int]bool{}
				err := c.Nexthops(t.Context(), func() { clear(seen) }, func(nh Nexthop) { seen[int(nh.ID-nexthopOf(0, 0).ID)] = true })
				return seen, err
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Nil(t, c.do(t, func(b *Batch) {
				for i := range many {
					if isStable(i) {
						tt.add(b, i)
					}
				}
			}))
			stop := churn(t, dial(t, n), func(b *Batch, round int) {
				for i := range many {
					switch {
					case isStable(i):
					case round%2 == 0:
						tt.add(b, i)
					default:
						tt.del(b, i)
					}
				}
			})
			defer stop()
			for range rounds {
				seen, err := tt.list()
				if errors.Is(err, ErrInterrupted) {
					continue
				}
				require.NoError(t, err)
				for i := range many {
					require.True(t, seen[i] || !isStable(i), "%d is missing and nothing was said", i)
				}
			}
		})
	}
}

// TestInterruptedListingBeginsAnew provokes NLM_F_DUMP_INTR, which the kernel sets when nexthops change between two reads.
func TestInterruptedListingBeginsAnew(t *testing.T) {
	n, c, eth0 := newNode(t)
	const many = 3000
	require.Nil(t, c.do(t, func(b *Batch) {
		for i := range many {
			b.AddNexthop(nexthopOf(i, eth0))
		}
	}))
	stop := churn(t, dial(t, n), func(b *Batch, _ int) {
		b.AddNexthop(nexthopOf(many, eth0))
		b.DeleteNexthop(nexthopOf(many, eth0).ID)
	})
	defer stop()
	again, whole := 0, 0
	deadline := time.Now().Add(patience)
	for again == 0 {
		require.Less(t, time.Now(), deadline, "no listing was ever interrupted")
		seen, restarts := map[uint32]bool{}, 0
		err := c.Nexthops(t.Context(), func() { clear(seen); restarts++ }, func(nh Nexthop) { seen[nh.ID] = true })
		again += restarts - 1
		if err != nil {
			require.ErrorIs(t, err, ErrInterrupted)
			assert.EqualError(t, err, "list nexthops: list kept changing while it was read")
			assert.Equal(t, dumpTries, restarts)
			continue
		}
		whole++
		delete(seen, nexthopOf(many, eth0).ID)
		require.Len(t, seen, many)
	}
	stop()
	seen := 0
	require.NoError(t, c.Nexthops(t.Context(), func() { seen = 0 }, func(Nexthop) { seen++ }))
	assert.GreaterOrEqual(t, seen, many)
}

func TestListingEndsWithItsContext(t *testing.T) {
	_, c, _ := newNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := c.Routes(ctx, func() {}, func(Route) { t.Error("listed something") })
	assert.ErrorIs(t, err, context.Canceled)
	assert.ErrorContains(t, err, "list routes")
}

func TestLinks(t *testing.T) {
	n, c, eth0 := newNode(t)
	t.Run("none of that name", func(t *testing.T) {
		_, err := c.Link("eth7")
		assert.ErrorIs(t, err, ErrNoLink)
		assert.EqualError(t, err, "find link eth7: no such link")
	})
	t.Run("none with that index", func(t *testing.T) {
		_, err := c.LinkAt(4711)
		assert.ErrorIs(t, err, ErrNoLink)
		assert.EqualError(t, err, "find link with index 4711: no such link")
	})
	for i, tt := range []struct {
		name   string
		change func(l *Link)
	}{
		{"plain", func(*Link) {}},
		{"learning", func(l *Link) { l.VXLAN.Learning = true }},
		{"GBP", func(l *Link) { l.VXLAN.GBP, l.VXLAN.Port = true, 4790 }},
		{"checksums", func(l *Link) { l.VXLAN.Checksum = true }},
		{"IPv6", func(l *Link) { l.VXLAN.Local, l.VXLAN.Checksum = n.V6, true }},
		{"IPv6 without checksums", func(l *Link) { l.VXLAN.Local, l.VXLAN.Checksum = n.V6, false }},
		{"too small for IPv6", func(l *Link) { l.MTU = 1000 }},
		{"in a group", func(l *Link) { l.Group = 77 }},
	} {
		t.Run("VTEP, "+tt.name, func(t *testing.T) {
			want := vtepOf("vx", uint32(100+i), n.V4, eth0)
			tt.change(&want)
			require.Nil(t, c.do(t, func(b *Batch) { b.AddVXLAN(want) }))
			got, err := c.Link("vx")
			require.NoError(t, err)
			want.Index, want.Operational = got.Index, got.Operational
			assert.Equal(t, want, got)
			again, err := c.LinkAt(got.Index)
			require.NoError(t, err)
			assert.Equal(t, got.Name, again.Name)
			kind, err := c.LinksOfKind(t.Context(), "vxlan")
			require.NoError(t, err)
			require.Len(t, kind, 1)
			assert.Equal(t, want.VXLAN, kind[0].VXLAN)
			addrs, err := c.Addresses(got.Index)
			require.NoError(t, err)
			assert.Empty(t, addrs, "no link-local address: its duplicate detection would cross the overlay")
			require.Nil(t, c.do(t, func(b *Batch) { b.DeleteLink(got.Index) }))
		})
	}
	t.Run("VTEP changed in place", func(t *testing.T) {
		vx := newVTEP(t, c, n.V4, eth0)
		want := vtepOf("vx", 1, n.V4, eth0)
		want.Index, want.MTU, want.MAC, want.VXLAN.Learning = vx, 1400, podweft.MAC{0x0e, 7}, true
		want.VXLAN.Local = netip.MustParseAddr("192.0.2.77")
		require.Nil(t, c.do(t, func(b *Batch) {
			b.ChangeVXLAN(want)
			b.SetMTU(vx, want.MTU)
			b.SetMAC(vx, want.MAC)
			b.SetUp(vx, false)
		}))
		got, err := c.LinkAt(vx)
		require.NoError(t, err)
		want.Up, want.Operational = false, got.Operational
		assert.Equal(t, want, got)
	})
	t.Run("pair with one queue each way", func(t *testing.T) {
		here, err := os.Open(n.NetNS())
		require.NoError(t, err)
		defer here.Close()
		require.Nil(t, c.do(t, func(b *Batch) { b.AddVeth(Link{Name: "host", Alias: "a port"}, Link{Name: "peer"}, int(here.Fd())) }))
		for _, name := range []string{"host", "peer"} {
			var tx, rx int
			_, err := c.named(t.Context(), name, func(l vnl.Link, _ []byte) { tx, rx = l.Attrs().NumTxQueues, l.Attrs().NumRxQueues })
			require.NoError(t, err)
			assert.Equal(t, []int{1, 1}, []int{tx, rx}, name)
		}
	})
	t.Run("groups", func(t *testing.T) {
		const group = 7700
		require.Nil(t, c.do(t, func(b *Batch) {
			for i := range 5 {
				b.CreateBridge(Link{Name: fmt.Sprint("br", i), Group: group})
			}
			b.DeleteGroup(group)
		}))
		links, err := c.LinksOfKind(t.Context(), "bridge")
		require.NoError(t, err)
		assert.Empty(t, links)
		errs := c.do(t, func(b *Batch) { b.DeleteGroup(group) })
		require.Len(t, errs, 1)
		assert.ErrorIs(t, errs[0], unix.ENODEV)
	})
}

func TestAddresses(t *testing.T) {
	_, c, eth0 := newNode(t)
	before, err := c.Addresses(eth0)
	require.NoError(t, err)
	v4 := Address{Link: eth0, Prefix: netip.MustParsePrefix("10.1.0.1/24")}
	v6 := Address{Link: eth0, Prefix: netip.MustParsePrefix("fd00:1::1/64")}
	second := Address{Link: eth0, Prefix: netip.MustParsePrefix("10.1.0.2/24")}
	require.Nil(t, c.do(t, func(b *Batch) {
		b.AddAddress(v4)
		b.AddAddress(v6)
		b.AddAddress(second)
	}))
	errs := c.do(t, func(b *Batch) { b.AddAddress(v4) })
	require.Len(t, errs, 1)
	assert.ErrorIs(t, errs[0], unix.EEXIST)
	after, err := c.Addresses(eth0)
	require.NoError(t, err)
	second.Unsteady = true
	assert.ElementsMatch(t, append(before, v4, v6, second), after)
	all, err := c.Addresses(0)
	require.NoError(t, err)
	assert.Subset(t, all, after)
	assert.Greater(t, len(all), len(after), "lo's too")
	require.Nil(t, c.do(t, func(b *Batch) {
		b.DeleteAddress(second)
		b.DeleteAddress(v4)
		b.DeleteAddress(v6)
	}))
	after, err = c.Addresses(eth0)
	require.NoError(t, err)
	assert.ElementsMatch(t, before, after)
}

// TestAddressesAreUsable: an address answers for its node, in both families, without the wait for duplicates.
func TestAddressesAreUsable(t *testing.T) {
	n, c, eth0 := newNode(t)
	for _, p := range []string{"10.1.0.1/32", "fd00:1::1/128"} {
		prefix := netip.MustParsePrefix(p)
		require.Nil(t, c.do(t, func(b *Batch) { b.AddAddress(Address{Link: eth0, Prefix: prefix}) }))
		require.Eventually(t, func() bool {
			local, err := c.Local(t.Context(), prefix.Addr())
			require.NoError(t, err)
			return local
		}, patience, time.Millisecond, p)
		_, err := n.Ping(t.Context(), prefix.Addr())
		assert.NoError(t, err)
	}
	local, err := c.Local(t.Context(), netip.MustParseAddr("10.1.0.2"))
	require.NoError(t, err)
	assert.False(t, local)
}
