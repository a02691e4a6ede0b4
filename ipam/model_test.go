package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/podweft/podweft"
)

// world is the model: what a Pool does, in maps and by brute force.
type world struct {
	cfg     Config
	rules   *ruleset
	now     uint64
	boot    int
	held    map[Owner]Allocation
	cooling []resting // the one released first comes first
}

type resting struct {
	addrs []netip.Addr
	until uint64
}

// The ranges that the model's node has in turn: small enough to be exhausted, and some overlap.
var layouts = []Config{
	{Prefixes: prefixes("10.244.1.0/29", "fd00:1::/64"), Reserved: prefixes("10.244.1.5/32")},
	{Prefixes: prefixes("10.244.0.0/16", "fd00:1::/125")},
	{Prefixes: prefixes("fd00:1::/126")},
	{Sets: [][]Range{
		{
			{Prefix: prefixes("10.244.1.0/28")[0], First: netip.MustParseAddr("10.244.1.4"), Last: netip.MustParseAddr("10.244.1.6")},
			{Prefix: prefixes("10.9.0.0/30")[0]},
		},
		{{Prefix: prefixes("fd00:2::/64")[0], Gateway: netip.MustParseAddr("fe80::1")}},
	}},
}

func (w *world) choose(layout int) {
	path, boot, grace := w.cfg.Path, w.cfg.BootID, w.cfg.Grace
	w.cfg = layouts[layout]
	w.cfg.Path, w.cfg.BootID, w.cfg.Grace = path, boot, grace
	w.rules, _ = w.cfg.compile()
}

func (w *world) reboot() {
	w.boot++
	w.cfg.BootID = fmt.Sprint("boot-", w.boot)
	w.held, w.cooling = map[Owner]Allocation{}, nil
}

func (w *world) holder(a netip.Addr) (Owner, bool) {
	for o, alloc := range w.held {
		if alloc.holds(a) {
			return o, true
		}
	}
	return Owner{}, false
}

func (w *world) rests(a netip.Addr) bool {
	return slices.ContainsFunc(w.cooling, func(r resting) bool { return r.until > w.now && slices.Contains(r.addrs, a) })
}

// gives reports whether the set has an address that nobody holds, none of those wanted aside.
func (w *world) gives(set int) bool {
	for pos := range min(w.rules.geometry.size(set), 64) { // more than owners there are
		a := w.rules.geometry.at(set, pos)
		if _, taken := w.holder(a); !taken && !w.rests(a) && !w.rules.isReserved(a) {
			return true
		}
	}
	return false
}

// allowed checks the answer to Allocate, and takes it over.
func (w *world) allowed(o Owner, want []netip.Addr, got Allocation, err error) error {
	if alloc, ok := w.held[o]; ok {
		if slices.ContainsFunc(want, func(a netip.Addr) bool { return !alloc.holds(a) }) {
			return expect(err, podweft.ErrInvalid)
		}
		if err != nil || fmt.Sprint(got) != fmt.Sprint(alloc) {
			return fmt.Errorf("want %v again, got %v, %w", alloc, got, err)
		}
		return nil
	}
	chosen := map[int]netip.Addr{}
	var reasons []error
	for _, a := range want {
		set, _, _, ok := w.rules.geometry.locate(a)
		if !ok || w.rules.isReserved(a) || chosen[set].IsValid() {
			return expect(err, podweft.ErrInvalid)
		}
		chosen[set] = a
		if _, taken := w.holder(a); taken {
			reasons = append(reasons, ErrTaken)
		}
	}
	for set := range w.rules.geometry {
		if !chosen[set].IsValid() && !w.gives(set) {
			reasons = append(reasons, ErrExhausted)
		}
	}
	if len(reasons) > 0 {
		return expect(err, reasons...)
	}
	if err != nil {
		return err
	}
	if got.Owner != o || len(got.Addresses) != len(w.rules.geometry) {
		return fmt.Errorf("got %v", got)
	}
	for set, held := range got.Addresses {
		a := held.Prefix.Addr()
		in, _, _, ok := w.rules.geometry.locate(a)
		other, taken := w.holder(a)
		switch {
		case !ok || in != set:
			return fmt.Errorf("%s is not of set %d", a, set)
		case chosen[set].IsValid() && chosen[set] != a:
			return fmt.Errorf("wanted %s, got %s", chosen[set], a)
		case taken:
			return fmt.Errorf("%s is held by %s", a, other)
		case w.rules.isReserved(a):
			return fmt.Errorf("%s is reserved", a)
		case w.rests(a) && !chosen[set].IsValid():
			return fmt.Errorf("%s is kept back", a)
		}
		for i, r := range w.cooling {
			w.cooling[i].addrs = slices.DeleteFunc(r.addrs, func(b netip.Addr) bool { return a == b })
		}
	}
	w.held[o] = got
	return nil
}

func expect(err error, reasons ...error) error {
	if slices.ContainsFunc(reasons, func(r error) bool { return errors.Is(err, r) }) {
		return nil
	}
	return fmt.Errorf("want one of %v, got %v", reasons, err)
}

func (w *world) release(o Owner) {
	alloc, ok := w.held[o]
	if !ok {
		return
	}
	delete(w.held, o)
	if w.cfg.Grace > 0 {
		r := resting{until: w.now + uint64(w.cfg.Grace)}
		for _, a := range alloc.Addresses {
			r.addrs = append(r.addrs, a.Prefix.Addr())
		}
		w.cooling = append(w.cooling, r)
	}
}

func leasesOf(files map[netip.Addr]Owner) (leases []lease) {
	for a, o := range files {
		leases = append(leases, lease{file: a.String(), owner: o, addr: a, since: time.Unix(1, 0)})
	}
	return leases
}

// imported checks what was taken over, and takes it over.
func (w *world) imported(files map[netip.Addr]Owner, got []Allocation) error {
	before := maps.Clone(w.held)
	for _, alloc := range got {
		if _, known := before[alloc.Owner]; known {
			return fmt.Errorf("%s held something already", alloc.Owner)
		}
		for _, held := range alloc.Addresses {
			a := held.Prefix.Addr()
			if other, taken := w.holder(a); taken {
				return fmt.Errorf("%s is held by %s", a, other)
			}
			if files[a] != alloc.Owner {
				return fmt.Errorf("%s was not %s's", a, alloc.Owner)
			}
			for i, r := range w.cooling {
				w.cooling[i].addrs = slices.DeleteFunc(r.addrs, func(b netip.Addr) bool { return a == b })
			}
		}
		w.held[alloc.Owner] = alloc
	}
	for a, o := range files {
		alloc, has := w.held[o]
		_, had := before[o]
		if has && alloc.holds(a) {
			continue
		}
		// Left out is all that an owner is said to have when any of it is known otherwise.
		refused := had
		for b, other := range files {
			holder, taken := w.holder(b)
			refused = refused || other == o && taken && holder != o
		}
		if !refused {
			return fmt.Errorf("%s of %s was left out", a, o)
		}
	}
	return nil
}

func TestPoolAgainstModel(t *testing.T) {
	dir := fastDir(t)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		ctx := context.Background()
		w := &world{now: uint64(time.Hour), cfg: Config{Path: filepath.Join(dir, fmt.Sprint(n))}}
		w.cfg.Grace = rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(t, "grace")
		w.reboot()
		w.choose(rapid.IntRange(0, len(layouts)-1).Draw(t, "layout"))
		var p *Pool
		reopen := func() {
			if p != nil {
				require.NoError(t, p.Close())
			}
			var err error
			p, err = Open(w.cfg)
			require.NoError(t, err)
			p.now = func() uint64 { return w.now }
		}
		reopen()
		defer func() { p.Close(); os.Remove(w.cfg.Path) }()

		owner := rapid.Custom(func(t *rapid.T) Owner {
			o := pod(fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "container")))
			o.Interface = rapid.SampledFrom([]string{"eth0", "net1"}).Draw(t, "interface")
			return o
		})
		wanted := rapid.SampledFrom([]string{
			"10.244.1.1", "10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5", "10.244.1.6", "10.9.0.2", "10.244.255.254",
			"fd00:1::2", "fd00:1::3", "fd00:1::1:2:3:4", "fd00:2::1", "fd00:2::7:7:7:7", "192.0.2.1",
		})
		t.Repeat(map[string]func(*rapid.T){
			"allocate": func(t *rapid.T) {
				o := owner.Draw(t, "owner")
				got, err := p.Allocate(ctx, o)
				require.NoError(t, w.allowed(o, nil, got, err))
			},
			"allocate by name": func(t *rapid.T) {
				o := owner.Draw(t, "owner")
				var want []netip.Addr
				for _, text := range rapid.SliceOfN(wanted, 1, 2).Draw(t, "want") {
					want = append(want, netip.MustParseAddr(text))
				}
				got, err := p.Allocate(ctx, o, want...)
				require.NoError(t, w.allowed(o, want, got, err))
			},
			"release": func(t *rapid.T) {
				o := owner.Draw(t, "owner")
				require.NoError(t, p.Release(ctx, o))
				w.release(o)
			},
			"collect": func(t *rapid.T) {
				dead := rapid.SliceOf(owner).Draw(t, "dead")
				_, err := p.Collect(ctx, func(_ context.Context, held []Allocation) ([]Owner, error) { return dead, nil })
				require.NoError(t, err)
				for _, o := range dead {
					w.release(o)
				}
			},
			"import": func(t *rapid.T) {
				files := map[netip.Addr]Owner{}
				for range rapid.IntRange(1, 4).Draw(t, "files") {
					files[netip.MustParseAddr(wanted.Draw(t, "address"))] = owner.Draw(t, "owner")
				}
				got, _, err := p.take(ctx, leasesOf(files))
				require.NoError(t, err)
				require.NoError(t, w.imported(files, got))
			},
			"wait": func(t *rapid.T) {
				w.now += uint64(rapid.SampledFrom([]time.Duration{time.Second, 40 * time.Second, time.Hour}).Draw(t, "time"))
			},
			"reopen": func(*rapid.T) { reopen() },
			"reboot": func(*rapid.T) {
				w.reboot()
				reopen()
			},
			"change ranges": func(t *rapid.T) {
				w.choose(rapid.IntRange(0, len(layouts)-1).Draw(t, "layout"))
				reopen()
			},
			"": func(t *rapid.T) {
				all, err := p.All(ctx)
				require.NoError(t, err)
				got := map[Owner]Allocation{}
				for _, a := range all {
					got[a.Owner] = a
				}
				require.Equal(t, len(w.held), len(all))
				require.True(t, maps.EqualFunc(w.held, got, func(a, b Allocation) bool { return fmt.Sprint(a) == fmt.Sprint(b) }))
				verify(t, p)
			},
		})
	})
}

// fastDir is a directory of the test in memory where there is one: these tests make many files, and wait until each is
// written.
func fastDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "ipam")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
