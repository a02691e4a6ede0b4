package ipam

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// verify checks everything that must hold of a store file between two calls.
func verify(t require.TestingT, p *Pool) {
	if h, ok := t.(*testing.T); ok {
		h.Helper()
	}
	ctx := testContext(t)
	require.NoError(t, p.locked(ctx, check))
}

// check is the invariants. Nobody but tests needs it: a change keeps them, and damage shows in the checksums.
func check(s *store) error {
	if s.void {
		return nil
	}
	seen := map[netip.Addr]Owner{}
	states := map[byte]uint32{}
	positions, strays := 0, uint32(0)
	var owners []Owner
	slots := map[Owner]uint32{}
	var twice error
	err := s.each(func(slot uint32, rec *record) bool {
		states[rec.state]++
		if rec.state == unused {
			return true
		}
		for _, a := range rec.Addresses {
			addr := a.Prefix.Addr()
			if other, ok := seen[addr]; ok {
				twice = fmt.Errorf("%s is in the records of %s and %s", addr, other, rec.Owner)
			}
			seen[addr] = rec.Owner
			if _, _, stray, _ := s.geometry.locate(addr); stray {
				strays++
			} else {
				positions++
			}
		}
		if rec.state == held {
			owners = append(owners, rec.Owner)
			slots[rec.Owner] = slot
		}
		return true
	})
	if err := cmp.Or(err, twice); err != nil {
		return err
	}
	if len(slots) != len(owners) {
		return fmt.Errorf("%d owners have %d records", len(slots), len(owners))
	}
	for _, o := range owners {
		if here, err := s.find(o); err != nil || here.slot != slots[o] {
			return fmt.Errorf("%s is in slot %d but found in %d: %w", o, slots[o], here.slot, err)
		}
	}
	for addr := range seen {
		set, pos, stray, _ := s.geometry.locate(addr)
		if stray {
			continue
		}
		if taken, err := s.isTaken(set, pos); err != nil || !taken {
			return fmt.Errorf("%s is held but its bit is not set: %w", addr, err)
		}
	}
	marked := 0
	for set := range s.geometry {
		for at := range bitmapBlocks(s.geometry.size(set)) {
			if err := s.read(s.bitmaps[set]+at, &s.scratch); err != nil {
				return err
			}
			for w := range bitmapWords {
				marked += bits.OnesCount64(binary.LittleEndian.Uint64(s.scratch[w*8:]))
			}
		}
	}
	if marked != positions || strays != s.strays {
		return fmt.Errorf("%d bits for %d addresses, %d strays counted for %d", marked, positions, s.strays, strays)
	}

	queued := uint32(0)
	last := uint32(0)
	if err := s.eachCooling(func(slot uint32, _ *record) bool { queued++; last = slot; return true }); err != nil {
		return err
	}
	if queued != states[cooling] || last != s.coolTail {
		return fmt.Errorf("%d of %d kept-back records are queued, the last is %d, not %d", queued, states[cooling], last, s.coolTail)
	}
	free := uint32(0)
	for slot := s.free; slot != 0; free++ {
		rec, err := s.slot(slot, unused)
		if err != nil {
			return err
		}
		slot = rec.next
		if free > s.slots {
			return fmt.Errorf("the list of free slots runs in a circle")
		}
	}
	if free != states[unused] {
		return fmt.Errorf("%d of %d free slots are listed", free, states[unused])
	}
	return nil
}

func testContext(t require.TestingT) context.Context {
	if h, ok := t.(interface{ Context() context.Context }); ok {
		return h.Context()
	}
	return context.Background()
}
