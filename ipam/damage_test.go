package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// useAll calls everything that there is on what was wornStore's file, and returns the errors that say that it is damaged.
// No address that somebody held before is given to another.
func useAll(t *testing.T, path string) (damage []error) {
	t.Helper()
	p, err := Open(wornConfig(path))
	if err != nil {
		return []error{err}
	}
	defer p.Close()
	heldBy := map[netip.Addr]Owner{}
	for i := range wornOwners {
		if i%2 == 1 || i >= 8 { // wornStore has released the others
			heldBy[netip.AddrFrom4([4]byte{10, 244, 1, byte(2 + i)})] = pod(fmt.Sprint("worn-", i))
			heldBy[add(netip.MustParseAddr("fd00:1::2"), uint64(i))] = pod(fmt.Sprint("worn-", i))
		}
	}
	see := func(a Allocation, err error) {
		t.Helper()
		documented(t, err)
		if errors.Is(err, ErrDamaged) {
			damage = append(damage, err)
		}
		for _, held := range a.Addresses {
			addr := held.Prefix.Addr()
			if other, ok := heldBy[addr]; ok {
				require.Equal(t, other, a.Owner, "%s was given to two", addr)
			}
			heldBy[addr] = a.Owner
		}
	}
	see(p.Allocate(t.Context(), pod("thief"), netip.MustParseAddr("10.244.1.3")))
	see(p.Allocate(t.Context(), pod("static"), netip.MustParseAddr("10.244.1.2")))
	for i := range 20 {
		see(p.Allocate(t.Context(), pod(fmt.Sprint("new-", i))))
	}
	for i := range wornOwners {
		see(p.Lookup(t.Context(), pod(fmt.Sprint("worn-", i))))
	}
	all, err := p.All(t.Context())
	see(Allocation{}, err)
	for _, a := range all {
		see(a, nil)
	}
	_, err = p.Usage(t.Context())
	see(Allocation{}, err)
	for i := range wornOwners {
		see(Allocation{}, p.Release(t.Context(), pod(fmt.Sprint("worn-", i))))
	}
	for i := range 200 { // every bucket
		_, err := p.Lookup(t.Context(), pod(fmt.Sprint("nobody-", i)))
		see(Allocation{}, err)
	}
	return damage
}

func TestWholeStoreIsNotDamaged(t *testing.T) {
	for shape := range 3 {
		path := filepath.Join(t.TempDir(), "ipam")
		require.NoError(t, os.WriteFile(path, wornStore(t, shape), 0o600))
		assert.Empty(t, useAll(t, path))
	}
}

// Damage to any block that holds something is seen.
func TestDamageIsSeen(t *testing.T) {
	content, other := wornStore(t, 0), wornStore(t, 0)
	l, ok := decodeLayout((*block)(content))
	require.True(t, ok)
	damages := map[string]func(num uint32, b []byte){
		"one bit":                  func(_ uint32, b []byte) { b[100] ^= 4 },
		"zeros":                    func(_ uint32, b []byte) { clear(b) },
		"half a block":             func(_ uint32, b []byte) { clear(b[256:]) },
		"a block of another store": func(num uint32, b []byte) { copy(b, other[num*blockSize:][:blockSize]) },
		"a block of another place": func(num uint32, b []byte) {
			if num++; num == l.firstSlot+wornOwners {
				num = l.firstSlot
			}
			copy(b, content[num*blockSize:][:blockSize])
		},
	}
	for name, spoil := range damages {
		t.Run(name, func(t *testing.T) {
			for num := range l.firstSlot + wornOwners {
				if num >= journalBlock && num < dataBlock {
					continue // nothing is under way
				}
				if name == "a block of another store" && num == identityBlock {
					continue // then it is another store, all of whose blocks are bad
				}
				spoiled := append([]byte(nil), content...)
				spoil(num, spoiled[num*blockSize:][:blockSize])
				if num == superBlock {
					clear(spoiled[journalBlock*blockSize:][:blockSize]) // which could mend it
				}
				path := filepath.Join(t.TempDir(), "ipam")
				require.NoError(t, os.WriteFile(path, spoiled, 0o600))
				assert.NotEmpty(t, useAll(t, path), "block %d", num)
			}
		})
	}
}

// A super block that is lost is mended from the journal, which holds the last change.
func TestJournalMendsSuperBlock(t *testing.T) {
	content := wornStore(t, 0)
	clear(content[superBlock*blockSize:][:blockSize])
	path := filepath.Join(t.TempDir(), "ipam")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	assert.Empty(t, useAll(t, path))
}

// A change stopped half-way cannot be completed without its journal. What it wrote is known to be too new.
func TestJournalIsLostHalfWay(t *testing.T) {
	for n := 2; ; n++ {
		path := filepath.Join(t.TempDir(), "ipam")
		require.NoError(t, os.WriteFile(path, wornStore(t, 0), 0o600))
		p := open(t, wornConfig(path))
		died := dieAt(p, n, 0)
		_, err := p.Allocate(t.Context(), pod("dying"), netip.MustParseAddr("10.244.1.20"))
		if !*died {
			require.NoError(t, err)
			require.Greater(t, n, 5)
			return
		}
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		clear(content[journalBlock*blockSize:][:blockSize])
		require.NoError(t, os.WriteFile(path, content, 0o600))
		// The first write is the journal's, so only a death after the second has left anything behind.
		assert.Equal(t, n > 2, len(useAll(t, path)) > 0, "dead at write %d", n)
	}
}
