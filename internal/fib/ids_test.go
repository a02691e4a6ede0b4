package fib

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/podweft/podweft/internal/nl"
)

var testMark = Mark{Protocol: 200, First: 1 << 30}

func viaOf(i int) via {
	return via{link: 4, gateway: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), onlink: true}
}

func nexthopOf(i int, id uint32) nl.Nexthop {
	v := viaOf(i)
	return nl.Nexthop{ID: id, Protocol: testMark.Protocol, Gateway: v.gateway, Link: v.link, Onlink: v.onlink}
}

func TestIDs(t *testing.T) {
	t.Run("counts up and stays", func(t *testing.T) {
		x := newIDs(testMark)
		assert.Equal(t, testMark.First, x.of(viaOf(1)))
		assert.Equal(t, testMark.First+1, x.of(viaOf(2)))
		assert.Equal(t, testMark.First, x.of(viaOf(1)))
	})
	t.Run("what is released is not given again at once", func(t *testing.T) {
		// The kernel's notification of the old one may still be on its way.
		x := newIDs(testMark)
		first := x.of(viaOf(1))
		x.release(viaOf(1))
		x.release(viaOf(9)) // never given
		assert.NotEqual(t, first, x.of(viaOf(2)))
		assert.NotEqual(t, first, x.of(viaOf(1)))
	})
	t.Run("takes over what the kernel holds", func(t *testing.T) {
		x := newIDs(testMark)
		have := nothing()
		have.nexthops.at[viaOf(1)] = nexthopOf(1, testMark.First+70)
		have.nexthops.at[viaOf(3)] = nexthopOf(3, testMark.First)
		have.taken[testMark.First+1] = struct{}{}
		have.doubles[testMark.First+2] = nexthopOf(1, testMark.First+2)
		x.learn(have, map[via]int{viaOf(1): 1, viaOf(2): 1})
		assert.Equal(t, testMark.First+70, x.of(viaOf(1)), "its own, after a restart")
		assert.Equal(t, testMark.First+3, x.of(viaOf(2)), "the first that nobody has")
	})
	t.Run("keeps what failed, as long as it is wanted", func(t *testing.T) {
		x := newIDs(testMark)
		first, second := x.of(viaOf(1)), x.of(viaOf(2))
		x.learn(nothing(), map[via]int{viaOf(1): 1})
		assert.Equal(t, first, x.of(viaOf(1)))
		assert.NotContains(t, x.used, second)
	})
	t.Run("gives way to another program", func(t *testing.T) {
		x := newIDs(testMark)
		before := x.of(viaOf(1))
		have := nothing()
		have.taken[before] = struct{}{}
		x.learn(have, map[via]int{viaOf(1): 1})
		assert.NotEqual(t, before, x.of(viaOf(1)))
	})
	t.Run("goes round", func(t *testing.T) {
		x := newIDs(testMark)
		for i := range idsPerOwner {
			id := x.of(viaOf(i))
			if !assert.True(t, testMark.owns(id)) || !assert.Len(t, x.used, i+1, "given twice: %d", id) {
				return
			}
		}
		x.release(viaOf(777))
		assert.Equal(t, testMark.First+777, x.of(viaOf(idsPerOwner)), "the only one left")
		assert.True(t, testMark.owns(x.of(viaOf(idsPerOwner+1))), "exhausted: the kernel will refuse it")
	})
}
