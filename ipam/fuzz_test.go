package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
)

// FuzzStoreFile damages a store file in every way the fuzzer thinks of and goes on using it. Calls may fail, with one of
// the errors that are documented, but never panic or hang, and no address is given to two.
//
// damage is a list of 4 bytes each: what to do (overwrite, clear a block, copy a block, cut off), where (2), with what.
func FuzzStoreFile(f *testing.F) {
	for _, damage := range [][]byte{
		{}, {0, 0, 3, 0xff}, {0, 4, 0, 1}, {1, 0, 1, 0}, {1, 0, 2, 0}, {1, 0, 14, 0}, {1, 0, 16, 0},
		{2, 0, 14, 16}, {2, 0, 20, 21}, {3, 0x20, 0, 0}, {3, 0, 1, 0}, {0, 0x1c, 3, 7, 0, 0x28, 4, 9},
	} {
		for shape := range uint8(3) {
			f.Add(shape, damage)
		}
	}
	var starts [3][]byte
	for shape := range starts {
		starts[shape] = wornStore(f, shape)
	}
	path := filepath.Join(fastDir(f), "ipam")
	f.Fuzz(func(t *testing.T, shape uint8, damage []byte) {
		content := append([]byte(nil), starts[shape%3]...)
		for ; len(damage) >= 4; damage = damage[4:] {
			content = spoil(content, damage[0], int(damage[1])<<8|int(damage[2]), damage[3])
		}
		os.Remove(path)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		useAll(t, path)
	})
}

// FuzzForeignFile is anything else that may lie where the store file should be.
func FuzzForeignFile(f *testing.F) {
	f.Add([]byte("10.244.1.2"))
	f.Add(make([]byte, 2*blockSize))
	f.Add(wornStore(f, 0))
	path := filepath.Join(fastDir(f), "ipam")
	f.Fuzz(func(t *testing.T, content []byte) {
		os.Remove(path)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		p, err := Open(wornConfig(path))
		if err != nil {
			require.ErrorIs(t, err, ErrDamaged)
			return
		}
		defer p.Close()
		givenTo := map[netip.Addr]Owner{}
		for i := range 8 {
			a, err := p.Allocate(t.Context(), pod(fmt.Sprint("new-", i)))
			if err != nil {
				require.ErrorIs(t, err, ErrDamaged)
				continue
			}
			require.NotContains(t, givenTo, a.Addr())
			givenTo[a.Addr()] = a.Owner
		}
	})
}

// FuzzBlocks decodes payloads whose checksum is right.
func FuzzBlocks(f *testing.F) {
	rec := record{state: held, Allocation: Allocation{Owner: pod("a"), Since: time.Unix(1, 2), Addresses: []Address{
		{netip.MustParsePrefix("10.244.1.2/24"), netip.MustParseAddr("10.244.1.1")},
		{netip.MustParsePrefix("fd00::2/64"), netip.MustParseAddr("fe80::1")},
	}}}
	var b block
	rec.encode(&b)
	f.Add(b[:])
	rules, err := Config{Path: "x", Prefixes: prefixes("10.244.0.0/16", "fd00::/64")}.compile()
	require.NoError(f, err)
	l := newLayout("boot", 7, rules.geometry)
	f.Add(l.encode()[:])
	f.Fuzz(func(t *testing.T, payload []byte) {
		var b, again block
		copy(b[:payloadSize], payload)
		if rec, ok := decodeRecord(&b); ok && rec.Owner.Validate() == nil {
			rec.encode(&again)
			twice, ok := decodeRecord(&again)
			require.True(t, ok)
			require.Equal(t, rec, twice)
		}
		decodeSuper(&b)
		b.seal(0, identityBlock, 0)
		if l, ok := decodeLayout(&b); ok {
			again, ok := decodeLayout(l.encode())
			require.True(t, ok)
			require.Equal(t, l, again)
		}
	})
}

func wornConfig(path string) Config {
	return Config{Path: path, BootID: "boot", Prefixes: prefixes("10.244.1.0/27", "fd00:1::/122")}
}

const wornOwners = 12

// wornStore is a store file that has been used: held, free and kept-back records. Shape 1 has a change in its
// journal that was not carried out, shape 2 one that was carried out in part.
func wornStore(t testing.TB, shape int) []byte {
	path := filepath.Join(t.TempDir(), "ipam")
	cfg := wornConfig(path)
	cfg.Grace = time.Hour
	p, err := Open(cfg)
	require.NoError(t, err)
	defer p.Close()
	for i := range wornOwners {
		_, err := p.Allocate(t.Context(), pod(fmt.Sprint("worn-", i)))
		require.NoError(t, err)
	}
	for i, grace := range []time.Duration{time.Hour, 0, time.Hour, 0} {
		p.grace = uint64(grace)
		require.NoError(t, p.Release(t.Context(), pod(fmt.Sprint("worn-", 2*i))))
	}
	if shape > 0 {
		dieAt(p, 2*shape, 0)
		_, err := p.Allocate(t.Context(), pod("dying"))
		require.ErrorIs(t, err, errKilled)
	}
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return content
}

// spoil does one damage at a place: a block, or a byte.
func spoil(content []byte, what byte, where int, with byte) []byte {
	if len(content) == 0 {
		return content
	}
	blocks := max(len(content)/blockSize, 1)
	block := func(i int) []byte {
		i = i % blocks * blockSize
		return content[i:min(i+blockSize, len(content))]
	}
	switch what % 4 {
	case 0:
		content[where%len(content)] = with
	case 1:
		clear(block(where))
	case 2:
		copy(block(where), block(int(with)))
	case 3:
		// An empty file is one that was not there: it is no damage.
		content = content[:1+where%len(content)]
	}
	return content
}

func documented(t *testing.T, err error) {
	t.Helper()
	for _, known := range []error{nil, ErrDamaged, ErrExhausted, ErrTaken, ErrNotFound, podweft.ErrInvalid} {
		if errors.Is(err, known) {
			return
		}
	}
	require.NoError(t, err)
}
