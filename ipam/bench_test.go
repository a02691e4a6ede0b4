package ipam

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// filled opens a pool on a /16 with n addresses taken.
func filled(b *testing.B, n int) (*Pool, Config) {
	cfg := Config{Path: storePath(b), Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}
	p, err := Open(cfg)
	require.NoError(b, err)
	b.Cleanup(func() { p.Close() })
	for i := range n {
		_, err := p.Allocate(b.Context(), benchOwner(i))
		require.NoError(b, err)
	}
	return p, cfg
}

func benchOwner(i int) Owner {
	return Owner{Network: "cbr0", Container: fmt.Sprintf("%064x", i), Interface: "eth0"}
}

// BenchmarkAllocate is one pod after the other: ns/op is Allocate and Release together, allocate-ns the former alone.
func BenchmarkAllocate(b *testing.B) {
	for _, n := range []int{0, 5_000, 60_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			p, _ := filled(b, n)
			var allocating time.Duration
			i := n
			for b.Loop() {
				i++
				start := time.Now()
				_, err := p.Allocate(b.Context(), benchOwner(i))
				allocating += time.Since(start)
				require.NoError(b, err)
				require.NoError(b, p.Release(b.Context(), benchOwner(i)))
			}
			b.ReportMetric(float64(allocating.Nanoseconds())/float64(b.N), "allocate-ns")
		})
	}
}

// BenchmarkOpen is what a process started for one pod does: open, allocate, close. With cold pages the file is first
// dropped from the page cache, so that it is read from the disk.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{0, 5_000, 60_000} {
		for _, cache := range []string{"warm", "cold"} {
			b.Run(fmt.Sprintf("%d/%s", n, cache), func(b *testing.B) {
				p, cfg := filled(b, n)
				require.NoError(b, p.Close())
				var opening time.Duration
				i := n
				for b.Loop() {
					i++
					if cache == "cold" {
						evictPages(b, cfg.Path)
					}
					start := time.Now()
					p, err := Open(cfg)
					require.NoError(b, err)
					_, err = p.Allocate(b.Context(), benchOwner(i))
					opening += time.Since(start)
					require.NoError(b, err)
					require.NoError(b, p.Release(b.Context(), benchOwner(i)))
					require.NoError(b, p.Close())
				}
				b.ReportMetric(float64(opening.Nanoseconds())/float64(b.N), "open+allocate-ns")
			})
		}
	}
}

// BenchmarkProcess is a process started for one pod, and in turn with it one that does nothing: it reads its configuration and
// writes an answer as long.
func BenchmarkProcess(b *testing.B) {
	program := filepath.Join(b.TempDir(), "give")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./testdata/give")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(b, err, "%s", out)
	sizes := []int{0, 5_000, 60_000}
	if testing.Short() {
		sizes = sizes[:1]
	}
	for _, n := range sizes {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			p, cfg := filled(b, n)
			run := func(conf map[string]any) time.Duration {
				stdin, err := json.Marshal(conf)
				require.NoError(b, err)
				cmd := exec.Command(program)
				cmd.Stdin = bytes.NewReader(stdin)
				start := time.Now()
				out, err := cmd.Output()
				took := time.Since(start)
				require.NoError(b, err)
				require.Contains(b, string(out), "10.244.")
				return took
			}
			var give, nothing []time.Duration
			for i := n; b.Loop(); i++ {
				conf := map[string]any{"Prefixes": cfg.Prefixes, "Container": benchOwner(i).Container}
				nothing = append(nothing, run(conf))
				conf["Path"] = cfg.Path
				give = append(give, run(conf))
				require.NoError(b, p.Release(b.Context(), benchOwner(i)))
			}
			slices.Sort(give)
			slices.Sort(nothing)
			median := give[len(give)/2].Seconds()
			b.ReportMetric(median*1000, "ms/median")
			b.ReportMetric(median/nothing[len(nothing)/2].Seconds(), "median/nothing")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func evictPages(b *testing.B, path string) {
	f, err := os.Open(path)
	require.NoError(b, err)
	defer f.Close()
	require.NoError(b, f.Sync())
	require.NoError(b, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
}

// BenchmarkAll is what reads every allocation: GC, people, asking for an address that somebody has. After a long life the
// records no longer lie in the order of the addresses, and have to be sorted.
func BenchmarkAll(b *testing.B) {
	all := func(b *testing.B, p *Pool) {
		for b.Loop() {
			all, err := p.All(b.Context())
			require.NoError(b, err)
			require.Len(b, all, 60_000)
		}
	}
	p, _ := filled(b, 60_000)
	b.Run("young", func(b *testing.B) { all(b, p) })
	for i := range 200_000 {
		j := rand.IntN(60_000)
		require.NoError(b, p.Release(b.Context(), benchOwner(j)))
		if i%3 == 2 { // another one's slot is the first to be used again
			k := rand.IntN(60_000)
			require.NoError(b, p.Release(b.Context(), benchOwner(k)))
			_, err := p.Allocate(b.Context(), benchOwner(k))
			require.NoError(b, err)
		}
		_, err := p.Allocate(b.Context(), benchOwner(j))
		require.NoError(b, err)
	}
	b.Run("old", func(b *testing.B) { all(b, p) })
}

// BenchmarkChangeRanges is the first Allocate after the node's prefix moved.
func BenchmarkChangeRanges(b *testing.B) {
	p, cfg := filled(b, 60_000)
	require.NoError(b, p.Close())
	for i := 0; b.Loop(); i++ {
		cfg.Prefixes = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i % 200), 0, 0}), 16)}
		p, err := Open(cfg)
		require.NoError(b, err)
		_, err = p.Allocate(b.Context(), benchOwner(60_000+i))
		require.NoError(b, err)
		require.NoError(b, p.Close())
	}
}
