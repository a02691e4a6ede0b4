package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var errKilled = errors.New("killed")

// dieAt makes the pool's process die in its n-th write, of which a share (in 1/4) is done.
func dieAt(p *Pool, n, quarters int) (died *bool) {
	died = new(bool)
	write := p.store.write
	p.store.write = func(f *os.File, b []byte, off int64) error {
		if n--; n > 0 {
			return write(f, b, off)
		}
		if *died = true; n == 0 {
			if err := write(f, b[:len(b)*quarters/4], off); err != nil {
				return err
			}
		}
		return errKilled
	}
	return died
}

// A process dies at every one of a call's writes, with the write not done, torn, or just done; whoever comes next may die
// at every write of its repair too. The call has then happened or not, and everything else is as it was.
func TestDeathAtEveryWrite(t *testing.T) {
	narrow := Config{Prefixes: prefixes("10.244.1.0/29", "fd00:1::/64"), BootID: "boot"}
	patient, moved, rebooted := narrow, narrow, narrow
	patient.Grace = time.Hour
	moved.Prefixes = prefixes("10.244.1.0/28", "fd00:2::/64")
	rebooted.BootID = "another"
	far := netip.MustParseAddr("fd00:1::1:2:3:4")

	allocate := func(name string, want ...netip.Addr) func(*testing.T, *Pool) error {
		return func(t *testing.T, p *Pool) error {
			_, err := p.Allocate(t.Context(), pod(name), want...)
			return err
		}
	}
	release := func(name string) func(*testing.T, *Pool) error {
		return func(t *testing.T, p *Pool) error { return p.Release(t.Context(), pod(name)) }
	}
	tests := []struct {
		name string
		cfg  Config
		call func(*testing.T, *Pool) error
	}{
		{name: "allocate", cfg: narrow, call: allocate("new")},
		{name: "allocate by name", cfg: narrow, call: allocate("new", far)},
		{name: "allocate what is kept back", cfg: narrow, call: allocate("new", netip.MustParseAddr("10.244.1.4"))},
		{name: "release", cfg: narrow, call: release("a")},
		{name: "release a stray", cfg: narrow, call: release("far")},
		{name: "release with grace", cfg: patient, call: release("a")},
		{name: "allocate after the ranges changed", cfg: moved, call: allocate("new")},
		{name: "allocate after a reboot", cfg: rebooted, call: allocate("new")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// a, b, far hold addresses; one slot is free; 10.244.1.4 and its companion are kept back.
			path := storePath(t)
			cfg := patient
			cfg.Path = path
			p := open(t, cfg)
			for _, call := range []func(*testing.T, *Pool) error{
				allocate("a"), allocate("gone"), allocate("cooling"), allocate("b"),
				allocate("far", netip.MustParseAddr("fd00:1::f:f:f:f")), release("cooling"),
			} {
				require.NoError(t, call(t, p))
			}
			impatient := narrow
			impatient.Path = path
			require.NoError(t, release("gone")(t, open(t, impatient)))
			start, err := os.ReadFile(path)
			require.NoError(t, err)

			tt.cfg.Path = path
			reset := func() *Pool {
				require.NoError(t, os.Remove(path)) // a file that is written over would be flushed to the disk
				require.NoError(t, os.WriteFile(path, start, 0o600))
				p, err := Open(tt.cfg)
				require.NoError(t, err)
				return p
			}
			p = reset()
			before := owners(t, p)
			require.NoError(t, tt.call(t, p))
			after := owners(t, p)
			require.NoError(t, p.Close())
			require.NotEqual(t, before, after)

			outcomes := map[string]int{}
			for n := 1; ; n++ {
				lived := false
				for quarters := range 5 {
					for repair := range 8 { // 0: the one who repairs lives
						p := reset()
						died := dieAt(p, n, quarters)
						err := tt.call(t, p)
						require.NoError(t, p.Close())
						if lived = !*died; lived {
							require.NoError(t, err)
							break
						}
						require.ErrorIs(t, err, errKilled)
						if repair > 0 {
							p, err := Open(tt.cfg)
							require.NoError(t, err)
							died := dieAt(p, repair, quarters)
							_, err = p.All(t.Context())
							require.Equal(t, *died, err != nil)
							require.NoError(t, p.Close())
							if !*died {
								break
							}
						}
						p, err = Open(tt.cfg)
						require.NoError(t, err)
						verify(t, p)
						switch got := owners(t, p); {
						case assert.ObjectsAreEqual(before, got):
							outcomes["not happened"]++
						case assert.ObjectsAreEqual(after, got):
							outcomes["happened"]++
						default:
							require.Fail(t, "half happened", "write %d, %d/4: %v", n, quarters, got)
						}
						require.NoError(t, tt.call(t, p), "the same call again")
						require.Equal(t, after, owners(t, p))
						verify(t, p)
						require.NoError(t, p.Close())
					}
				}
				if lived {
					break
				}
			}
			assert.NotZero(t, outcomes["not happened"])
			assert.NotZero(t, outcomes["happened"])
		})
	}
}

// owners is everything that is held, as text.
func owners(t *testing.T, p *Pool) map[string]string {
	t.Helper()
	all, err := p.All(t.Context())
	require.NoError(t, err)
	held := map[string]string{}
	for _, a := range all {
		held[a.Owner.Container] = addrs(a)
	}
	return held
}

// A full disk refuses a call before anything is decided, if the file must grow; and never spoils what is there.
func TestDiskIsFull(t *testing.T) {
	cfg := Config{Path: storePath(t), Prefixes: prefixes("10.244.1.0/24")}
	p := open(t, cfg)
	for i := range growth {
		_, err := p.Allocate(t.Context(), pod(fmt.Sprint(i)))
		require.NoError(t, err)
	}
	write := p.store.write
	size, err := os.Stat(cfg.Path)
	require.NoError(t, err)
	full := errors.New("no space left on device")
	p.store.write = func(f *os.File, b []byte, off int64) error {
		if off+int64(len(b)) > size.Size() {
			return full
		}
		return write(f, b, off)
	}
	_, err = p.Allocate(t.Context(), pod("one more"))
	require.ErrorIs(t, err, full)
	verify(t, p)
	require.NoError(t, p.Release(t.Context(), pod("5")))
	_, err = p.Allocate(t.Context(), pod("in its place"))
	require.NoError(t, err)
	verify(t, p)
}

// TestHalfGivenIsTakenBack: a call that fails in the middle of its writes, and lives, leaves its owner nothing.
func TestHalfGivenIsTakenBack(t *testing.T) {
	p := open(t, Config{Prefixes: prefixes("10.244.1.0/24")})
	_, err := p.Allocate(t.Context(), pod("a"))
	require.NoError(t, err)
	write := p.store.write
	failed := 0
	for n := 1; ; n++ {
		left := n
		p.store.write = func(f *os.File, b []byte, off int64) error {
			if left--; left == 0 {
				return errKilled
			}
			return write(f, b, off)
		}
		_, err := p.Allocate(t.Context(), pod("b"))
		if err == nil {
			break
		}
		failed++
		require.ErrorIs(t, err, errKilled)
		require.Equal(t, []string{"a"}, slices.Collect(maps.Keys(owners(t, p))))
		verify(t, p)
	}
	assert.Greater(t, failed, 3)
}
