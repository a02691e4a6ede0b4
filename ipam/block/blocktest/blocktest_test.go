package blocktest_test

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ipam/block/blocktest"
	"github.com/podweft/podweft/ipam/block/memory"
)

// brokenEnv names, in the child process, the broken Store to test.
const brokenEnv = "PODWEFT_BLOCKTEST_BROKEN"

// broken are Stores with one fault each, and the test that must find it.
var broken = []struct {
	name   string
	make   func(*memory.Store) block.Store
	caught string
}{
	{"none", func(s *memory.Store) block.Store { return s }, ""},
	{"writes whatever the revision", func(s *memory.Store) block.Store { return careless{s} }, "compare and swap"},
	{"makes a block anew", func(s *memory.Store) block.Store { return &remaking{s} }, "made once"},
	{"looks at the key only", func(s *memory.Store) block.Store { return &splitting{Store: s} }, "no overlap"},
	{"keeps empty blocks", func(s *memory.Store) block.Store { return keeping{s} }, "removed"},
	{"finds only blocks inside", func(s *memory.Store) block.Store { return inside{s} }, "in order"},
	{"lists in no order", func(s *memory.Store) block.Store { return unsorted{s} }, "in order"},
	{"is deaf", func(s *memory.Store) block.Store { return deaf{s} }, "watch"},
	{"takes the end of the context for an error", func(s *memory.Store) block.Store { return failing{s} }, "watch"},
	{"ignores its context", func(s *memory.Store) block.Store { return stubborn{s} }, "context"},
}

// TestCatches proves that Run can fail: a Store with a fault fails the test that is about it.
func TestCatches(t *testing.T) {
	if os.Getenv(brokenEnv) != "" {
		t.Skip("in the child process")
	}
	for _, b := range broken {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBroken$", "-test.v", "-test.timeout=60s")
			cmd.Env = append(os.Environ(), brokenEnv+"="+b.name)
			out, err := cmd.CombinedOutput()
			if b.caught == "" {
				require.NoError(t, err, "%s", out)
				return
			}
			var failed *exec.ExitError
			require.ErrorAs(t, err, &failed, "the fault was not caught:\n%s", out)
			assert.NotContains(t, string(out), "panic:")
			assert.Contains(t, string(out), "--- FAIL: TestBroken/"+strings.ReplaceAll(b.caught, " ", "_")+" ")
		})
	}
}

// TestBroken runs the conformance test, in the child process, against the Store that the parent names.
func TestBroken(t *testing.T) {
	name := os.Getenv(brokenEnv)
	if name == "" {
		t.Skip("run by TestCatches")
	}
	for _, b := range broken {
		if b.name != name {
			continue
		}
		patience := 500 * time.Millisecond
		if b.caught == "" {
			patience = 0 // as long as it takes
		}
		blocktest.Run(t, blocktest.Config{New: func(*testing.T) block.Store { return b.make(memory.New()) }, Patience: patience})
	}
}

// In the _test.go file of a Store:
func Example() {
	_ = func(t *testing.T) { // func TestStore(t *testing.T)
		blocktest.Run(t, blocktest.Config{New: func(*testing.T) block.Store { return memory.New() }})
	}
	// Output:
}

// at returns the block with a prefix.
func at(s *memory.Store, p netip.Prefix) (block.Block, bool) {
	blocks, _ := s.Blocks(context.Background(), p)
	i := slices.IndexFunc(blocks, func(b block.Block) bool { return b.Prefix == p })
	if i < 0 {
		return block.Block{}, false
	}
	return blocks[i], true
}

type careless struct{ *memory.Store }

func (s careless) Write(ctx context.Context, b block.Block) (block.Block, error) {
	if now, ok := at(s.Store, b.Prefix); ok && b.Revision != "" {
		b.Revision = now.Revision
	}
	return s.Store.Write(ctx, b)
}

type remaking struct{ *memory.Store }

func (s *remaking) Write(ctx context.Context, b block.Block) (block.Block, error) {
	if now, ok := at(s.Store, b.Prefix); ok && b.Revision == "" {
		b.Revision = now.Revision
	}
	return s.Store.Write(ctx, b)
}

// splitting keeps blocks of different lengths apart, as an engine does that compares keys.
type splitting struct {
	*memory.Store
	short [33]*memory.Store
}

func (s *splitting) of(bits int) *memory.Store {
	if bits < 0 || bits > 32 || bits == 26 {
		return s.Store
	}
	if s.short[bits] == nil {
		s.short[bits] = memory.New()
	}
	return s.short[bits]
}

func (s *splitting) Write(ctx context.Context, b block.Block) (block.Block, error) {
	return s.of(b.Prefix.Bits()).Write(ctx, b)
}

type keeping struct{ *memory.Store }

func (s keeping) Write(ctx context.Context, b block.Block) (block.Block, error) {
	if now, ok := at(s.Store, b.Prefix); ok && now.Revision == b.Revision && len(b.Shares) == 0 {
		return b, nil
	}
	return s.Store.Write(ctx, b)
}

type inside struct{ *memory.Store }

func (s inside) Blocks(ctx context.Context, p netip.Prefix) ([]block.Block, error) {
	blocks, err := s.Store.Blocks(ctx, p)
	return slices.DeleteFunc(blocks, func(b block.Block) bool { return b.Prefix.Bits() < p.Bits() }), err
}

type unsorted struct{ *memory.Store }

func (s unsorted) Blocks(ctx context.Context, p netip.Prefix) ([]block.Block, error) {
	blocks, err := s.Store.Blocks(ctx, p)
	slices.Reverse(blocks)
	return blocks, err
}

type deaf struct{ *memory.Store }

func (s deaf) Watch(ctx context.Context, changed func()) error {
	changed()
	<-ctx.Done()
	return nil
}

type failing struct{ *memory.Store }

func (s failing) Watch(ctx context.Context, changed func()) error {
	_ = s.Store.Watch(ctx, changed)
	return ctx.Err()
}

type stubborn struct{ *memory.Store }

func (s stubborn) Blocks(_ context.Context, p netip.Prefix) ([]block.Block, error) {
	return s.Store.Blocks(context.Background(), p)
}
