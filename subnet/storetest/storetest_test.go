package storetest_test

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/memory"
	"github.com/podweft/podweft/subnet/storetest"
)

// brokenEnv names, in the child process, the broken Store to test.
const brokenEnv = "PODWEFT_STORETEST_BROKEN"

// broken are Stores with one fault each, and the test that must find it.
var broken = []struct {
	name   string
	make   func(*memory.Store) subnet.Store
	caught string
}{
	{"none", func(s *memory.Store) subnet.Store { return s }, ""},
	{"gives a taken subnet when none is free", func(s *memory.Store) subnet.Store { return sharing{s} }, "claims race"},
	{"gives up while subnets are free", func(s *memory.Store) subnet.Store { return &giveUp{Store: s} }, "claims race"},
	{"takes nodes with one IPv4 address for one", func(s *memory.Store) subnet.Store { return byAddress{s} }, "v6-only"},
	{"gives a node another subnet each time", func(s *memory.Store) subnet.Store { return moving{s} }, "same node same subnet"},
	{"ignores the previous subnet", func(s *memory.Store) subnet.Store { return unprefer{s} }, "previous subnet"},
	{"gives any subnet for an exact claim", func(s *memory.Store) subnet.Store { return inexact{s} }, "exact claim"},
	{"renews what is lost", func(s *memory.Store) subnet.Store { return pretender{s} }, "lost lease"},
	{"releases whatever bears the key", func(s *memory.Store) subnet.Store { return thief{s} }, "lease taken over"},
	{"forgets the TTL", func(s *memory.Store) subnet.Store { return immortal{s} }, "expiry"},
	{"forgets to renew", func(s *memory.Store) subnet.Store { return lazy{s} }, "renewed leases live"},
	{"forgets reservations", func(s *memory.Store) subnet.Store { return unreserved{s} }, "reserved for nobody"},
	{"forgets whom a reservation is for", func(s *memory.Store) subnet.Store { return anonymous{s} }, "reserved for a node"},
	{"shows the first snapshot only", func(s *memory.Store) subnet.Store { return deaf{s} }, "watch changes"},
	{"makes every lease anew for each snapshot", func(s *memory.Store) subnet.Store { return cloning{s} }, "watch changes"},
	{"shows leases in no order", func(s *memory.Store) subnet.Store { return unsorted{s} }, "watch first snapshot"},
	{"takes the end of the context for an error", func(s *memory.Store) subnet.Store { return failing{s} }, "watch ends with its context"},
	{"leaks a goroutine for each watch", func(s *memory.Store) subnet.Store { return leaky{s} }, "watch ends with its context"},
	{"hides that a watch broke", func(s *memory.Store) subnet.Store { return silent{s} }, "watch after reconnect"},
	{"starts a watch with what it saw last", func(s *memory.Store) subnet.Store { return &stale{Store: s} }, "watch after reconnect"},
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
		places := map[subnet.Store]*memory.Store{}
		storetest.Run(t, storetest.Config{
			New: func(t *testing.T, n *subnet.Network) subnet.Store {
				place := memory.New(n)
				s := b.make(place)
				places[s] = place
				return s
			},
			Disconnect: func(t *testing.T, s subnet.Store, meanwhile func()) {
				places[s].Outage(errors.New("cable pulled"))
				places[s].Outage(nil)
				meanwhile()
			},
			SetNetwork: func(t *testing.T, s subnet.Store, n *subnet.Network) { places[s].SetNetwork(n) },
			TTL:        100 * time.Millisecond,
			Patience:   patience,
		})
	}
}

func TestSkip(t *testing.T) {
	skipped := 0
	storetest.Run(t, storetest.Config{
		New: func(t *testing.T, n *subnet.Network) subnet.Store {
			if strings.HasSuffix(t.Name(), "/exact_claim") {
				skipped++
			}
			return memory.New(n)
		},
		Skip: map[string]string{"exact claim": "to see that it can be"},
	})
	assert.Zero(t, skipped)
}

// TestGive runs the conformance test against a Store whose nodes take what they were given.
func TestGive(t *testing.T) {
	storetest.Run(t, storetest.Config{
		New: func(t *testing.T, n *subnet.Network) subnet.Store {
			return &assigning{Store: memory.New(n), given: map[string]subnet.Prefixes{}}
		},
		Give: func(t *testing.T, s subnet.Store, node string, p subnet.Prefixes) { s.(*assigning).given[node] = p },
	})
}

// assigning leases to each node what it was given, and nothing to others. Nothing is given while nodes claim.
type assigning struct {
	subnet.Store
	given map[string]subnet.Prefixes
}

func (s *assigning) Acquire(ctx context.Context, c subnet.Claim) (*subnet.Lease, error) {
	p, has := s.given[c.Node]
	switch {
	case has && c.Exact && c.Prefer != p:
		return nil, subnet.ErrTaken
	case has:
		c.Prefer, c.Exact = p, true
	}
	return s.Store.Acquire(ctx, c)
}

type sharing struct{ *memory.Store }

func (s sharing) Acquire(ctx context.Context, c subnet.Claim) (*subnet.Lease, error) {
	l, err := s.Store.Acquire(ctx, c)
	if errors.Is(err, subnet.ErrExhausted) {
		for snapshot := range s.Watch(ctx) {
			l := *snapshot.Leases[0]
			l.Node = c.Node
			return &l, nil
		}
	}
	return l, err
}

type giveUp struct {
	*memory.Store
	mu    sync.Mutex
	tries int
}

func (s *giveUp) Acquire(ctx context.Context, c subnet.Claim) (*subnet.Lease, error) {
	s.mu.Lock()
	s.tries++
	tries := s.tries
	s.mu.Unlock()
	if tries > 40 {
		return nil, subnet.ErrExhausted
	}
	return s.Store.Acquire(ctx, c)
}

type byAddress struct{ *memory.Store }

func (s byAddress) Acquire(ctx context.Context, c subnet.Claim) (*subnet.Lease, error) {
	name := c.Node
	c.Node = "at " + c.Underlay.V4.String()
	l, err := s.Store.Acquire(ctx, c)
	if err != nil {
		return nil, err
	}
	l.Node = name
	return l, nil
}

type moving struct{ *memory.Store }

func (s moving) Acquire(ctx context.Context, c subnet.Claim) (*subnet.Lease, error) {
	for snapshot, err := range s.Watch(ctx) {
		if err == nil && snapshot.Lease(c.Node) != nil && !c.Exact {
			if err := s.Release(ctx, snapshot.Lease(c.Node)); err != nil {
				return nil, err
			}
		}
		break
	}
	return s.Store.Acquire(ctx, c)
}

type unprefer struct{ *memory.Store }

func (s unprefer) Acquire(ctx context.Context, c subnet.Claim) (*subnet.Lease, error) {
	if !c.Exact {
		c.Prefer = subnet.Prefixes{V4: netip.MustParsePrefix("10.244.50.0/24")}
	}
	return s.Store.Acquire(ctx, c)
}

type inexact struct{ *memory.Store }

func (s inexact) Acquire(ctx context.Context, c subnet.Claim) (*subnet.Lease, error) {
	c.Exact = false
	return s.Store.Acquire(ctx, c)
}

type pretender struct{ *memory.Store }

func (s pretender) Renew(ctx context.Context, l *subnet.Lease) (*subnet.Lease, error) {
	renewed, err := s.Store.Renew(ctx, l)
	if errors.Is(err, subnet.ErrLeaseLost) {
		return l, nil
	}
	return renewed, err
}

type thief struct{ *memory.Store }

func (s thief) Release(ctx context.Context, l *subnet.Lease) error {
	for snapshot, err := range s.Watch(ctx) {
		if err != nil {
			return err
		}
		for _, found := range snapshot.Leases {
			if found.Key == l.Key {
				return s.Store.Release(ctx, found)
			}
		}
		break
	}
	return nil
}

type immortal struct{ *memory.Store }

func (s immortal) Acquire(ctx context.Context, c subnet.Claim) (*subnet.Lease, error) {
	ttl := c.TTL
	if ttl > 0 {
		c.TTL = time.Hour
	}
	l, err := s.Store.Acquire(ctx, c)
	if err == nil && ttl > 0 {
		l.Expires = time.Now().Add(ttl)
	}
	return l, err
}

type lazy struct{ *memory.Store }

func (s lazy) Renew(ctx context.Context, l *subnet.Lease) (*subnet.Lease, error) {
	return s.Store.Update(ctx, l)
}

type unreserved struct{ *memory.Store }

func (unreserved) Reserve(context.Context, subnet.Prefixes, string) error { return nil }

type anonymous struct{ *memory.Store }

func (s anonymous) Reserve(ctx context.Context, p subnet.Prefixes, _ string) error {
	return s.Store.Reserve(ctx, p, "")
}

type deaf struct{ *memory.Store }

func (s deaf) Watch(ctx context.Context) iter.Seq2[*subnet.Snapshot, error] {
	return func(yield func(*subnet.Snapshot, error) bool) {
		for snapshot, err := range s.Store.Watch(ctx) {
			if yield(snapshot, err) && err == nil {
				<-ctx.Done()
			}
			return
		}
	}
}

// changed makes a Watch whose snapshots go through change.
func changed(ctx context.Context, s *memory.Store, change func(*subnet.Snapshot)) iter.Seq2[*subnet.Snapshot, error] {
	return func(yield func(*subnet.Snapshot, error) bool) {
		for snapshot, err := range s.Watch(ctx) {
			if err == nil {
				c := *snapshot
				c.Leases = slices.Clone(c.Leases)
				change(&c)
				snapshot = &c
			}
			if !yield(snapshot, err) {
				return
			}
		}
	}
}

type cloning struct{ *memory.Store }

func (s cloning) Watch(ctx context.Context) iter.Seq2[*subnet.Snapshot, error] {
	return changed(ctx, s.Store, func(snapshot *subnet.Snapshot) {
		for i, l := range snapshot.Leases {
			c := *l
			snapshot.Leases[i] = &c
		}
	})
}

type unsorted struct{ *memory.Store }

func (s unsorted) Watch(ctx context.Context) iter.Seq2[*subnet.Snapshot, error] {
	return changed(ctx, s.Store, func(snapshot *subnet.Snapshot) { slices.Reverse(snapshot.Leases) })
}

type failing struct{ *memory.Store }

func (s failing) Watch(ctx context.Context) iter.Seq2[*subnet.Snapshot, error] {
	return func(yield func(*subnet.Snapshot, error) bool) {
		for snapshot, err := range s.Store.Watch(ctx) {
			if !yield(snapshot, err) {
				return
			}
		}
		if ctx.Err() != nil {
			yield(nil, ctx.Err())
		}
	}
}

type leaky struct{ *memory.Store }

func (s leaky) Watch(ctx context.Context) iter.Seq2[*subnet.Snapshot, error] {
	return func(yield func(*subnet.Snapshot, error) bool) {
		go func() { select {} }()
		s.Store.Watch(ctx)(yield)
	}
}

type silent struct{ *memory.Store }

func (s silent) Watch(ctx context.Context) iter.Seq2[*subnet.Snapshot, error] {
	return func(yield func(*subnet.Snapshot, error) bool) {
		for snapshot, err := range s.Store.Watch(ctx) {
			if errors.Is(err, subnet.ErrNoNetwork) {
				yield(nil, err)
			}
			if err != nil || !yield(snapshot, nil) {
				return
			}
		}
	}
}

type stale struct {
	*memory.Store
	mu   sync.Mutex
	last *subnet.Snapshot
}

func (s *stale) Watch(ctx context.Context) iter.Seq2[*subnet.Snapshot, error] {
	return func(yield func(*subnet.Snapshot, error) bool) {
		s.mu.Lock()
		last := s.last
		s.mu.Unlock()
		if last != nil && !yield(last, nil) {
			return
		}
		for snapshot, err := range s.Store.Watch(ctx) {
			if err == nil {
				s.mu.Lock()
				s.last = snapshot
				s.mu.Unlock()
			}
			if !yield(snapshot, err) {
				return
			}
		}
	}
}
