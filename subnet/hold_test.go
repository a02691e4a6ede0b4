package subnet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/memory"
)

var errDown = errors.New("connection refused")

func network(t testing.TB, conf string) *subnet.Network {
	n, err := subnet.ParseNetwork([]byte(conf))
	require.NoError(t, err)
	return n
}

const small = `{"Network": "10.244.0.0/16", "SubnetMin": "10.244.1.0", "SubnetMax": "10.244.4.0"}`

// counting counts how often the store is asked.
type counting struct {
	*memory.Store
	acquires, updates, renewals atomic.Int32
}

func (s *counting) Acquire(ctx context.Context, c subnet.Claim) (*subnet.Lease, error) {
	s.acquires.Add(1)
	return s.Store.Acquire(ctx, c)
}

func (s *counting) Update(ctx context.Context, l *subnet.Lease) (*subnet.Lease, error) {
	s.updates.Add(1)
	return s.Store.Update(ctx, l)
}

func (s *counting) Renew(ctx context.Context, l *subnet.Lease) (*subnet.Lease, error) {
	s.renewals.Add(1)
	return s.Store.Renew(ctx, l)
}

// present is what the store holds now.
func present(t testing.TB, s subnet.Store) *subnet.Snapshot {
	for snapshot, err := range s.Watch(t.Context()) {
		require.NoError(t, err)
		return snapshot
	}
	require.FailNow(t, "no snapshot")
	return nil
}

// run runs the Hold until stop, which returns what Run returned.
func run(t testing.TB, h *subnet.Hold) (stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	return func() error {
		cancel()
		return <-ended
	}
}

func TestHoldAcquire(t *testing.T) {
	for _, c := range []struct {
		name  string
		claim subnet.Claim
		store func() *memory.Store
		after func(*memory.Store) // a minute later
		want  error               // nil: a lease
	}{
		{
			name:  "at once",
			claim: subnet.Claim{Node: "a"},
			store: func() *memory.Store { return memory.New(network(t, small)) },
		},
		{
			name:  "waits for the store",
			claim: subnet.Claim{Node: "a"},
			store: func() *memory.Store {
				s := memory.New(network(t, small))
				s.Outage(errDown)
				return s
			},
			after: func(s *memory.Store) { s.Outage(nil) },
		},
		{
			name:  "waits for the network",
			claim: subnet.Claim{Node: "a"},
			store: func() *memory.Store { return memory.New(nil) },
			after: func(s *memory.Store) { s.SetNetwork(network(t, small)) },
		},
		{
			name:  "until ctx ends",
			claim: subnet.Claim{Node: "a"},
			store: func() *memory.Store { return memory.New(nil) },
			want:  subnet.ErrNoNetwork,
		},
		{
			name:  "not for a subnet that somebody has",
			claim: subnet.Claim{Node: "a", Exact: true, Prefer: subnet.Prefixes{V4: netip.MustParsePrefix("10.244.1.0/24")}},
			store: func() *memory.Store {
				s := memory.New(network(t, small))
				require.NoError(t, s.Reserve(t.Context(), subnet.Prefixes{V4: netip.MustParsePrefix("10.244.1.0/24")}, "b"))
				return s
			},
			want: subnet.ErrTaken,
		},
		{
			name:  "not when none is free",
			claim: subnet.Claim{Node: "a"},
			store: func() *memory.Store {
				s := memory.New(network(t, small))
				for i := range 4 {
					_, err := s.Acquire(t.Context(), subnet.Claim{Node: fmt.Sprint(i)})
					require.NoError(t, err)
				}
				return s
			},
			want: subnet.ErrExhausted,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := c.store()
				h, err := subnet.NewHold(subnet.HoldConfig{Store: store, Claim: c.claim})
				require.NoError(t, err)
				if c.after != nil {
					time.AfterFunc(time.Minute, func() { c.after(store) })
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				begun := time.Now()
				lease, err := h.Acquire(ctx)
				if c.want != nil {
					require.ErrorIs(t, err, c.want)
					assert.Nil(t, h.Lease())
					if errors.Is(c.want, subnet.ErrNoNetwork) {
						require.ErrorIs(t, err, context.DeadlineExceeded)
					} else {
						assert.Equal(t, begun, time.Now(), "an answer is not waited for")
					}
					return
				}
				require.NoError(t, err)
				assert.Equal(t, lease, h.Lease())
				assert.NoError(t, h.Status().Err)
				if c.after != nil {
					assert.LessOrEqual(t, time.Since(begun), time.Minute+5*time.Second, "tried again at most 5s later")
				}
			})
		})
	}
}

func TestHoldInvalid(t *testing.T) {
	_, err := subnet.NewHold(subnet.HoldConfig{})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	assert.ErrorContains(t, err, "HoldConfig.Store: is missing")
	assert.ErrorContains(t, err, "Claim.Node: is missing")
}

func TestHoldRunNeedsLease(t *testing.T) {
	h, err := subnet.NewHold(subnet.HoldConfig{Store: memory.New(nil), Claim: subnet.Claim{Node: "a"}})
	require.NoError(t, err)
	require.ErrorIs(t, h.Run(t.Context()), subnet.ErrLeaseLost)
	require.NoError(t, h.Release(t.Context()), "nothing to release")
}

func TestHoldRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &counting{Store: memory.New(network(t, small))}
		h := held(t, store, subnet.Claim{Node: "a", TTL: time.Hour})
		before := h.Lease()
		stop := run(t, h)
		time.Sleep(24 * time.Hour)
		require.NoError(t, stop())
		assert.Equal(t, before.Prefixes, h.Lease().Prefixes)
		renewals := store.renewals.Load()
		assert.GreaterOrEqual(t, renewals, int32(24*3), "every 15 to 20 minutes")
		assert.LessOrEqual(t, renewals, int32(24*4))
		assert.EqualValues(t, 1, store.acquires.Load())
		assert.NotNil(t, present(t, store).Lease("a"), "left in the store")

		time.Sleep(2 * time.Hour)
		assert.Nil(t, present(t, store).Lease("a"), "not renewed any more")
	})
}

// held returns a Hold that has its lease.
func held(t testing.TB, store subnet.Store, c subnet.Claim) *subnet.Hold {
	h, err := subnet.NewHold(subnet.HoldConfig{Store: store, Claim: c})
	require.NoError(t, err)
	_, err = h.Acquire(t.Context())
	require.NoError(t, err)
	return h
}

// TestHoldSpreads: nodes that start together do not renew together.
func TestHoldSpreads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New(network(t, `{"Network": "10.0.0.0/8"}`))
		at := map[time.Time]int{}
		for i := range 1000 {
			h := held(t, store, subnet.Claim{Node: fmt.Sprint(i), TTL: 24 * time.Hour})
			at[h.Status().RenewAt.Truncate(time.Minute)]++
		}
		for minute, n := range at {
			assert.LessOrEqual(t, n, 40, "renewals in the minute %s", minute)
		}
		assert.Greater(t, len(at), 100)
	})
}

func TestHoldOutlivesOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		store := &counting{Store: memory.New(network(t, small))}
		h, err := subnet.NewHold(subnet.HoldConfig{
			Store: store, Claim: subnet.Claim{Node: "a", TTL: time.Minute}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		require.NoError(t, err)
		lease, err := h.Acquire(t.Context())
		require.NoError(t, err)
		stop := run(t, h)

		store.Outage(errDown)
		time.Sleep(time.Hour) // the lease expires meanwhile
		assert.ErrorIs(t, h.Status().Err, errDown)
		assert.Equal(t, lease.Prefixes, h.Lease().Prefixes, "ours while the store cannot be asked")
		assert.Less(t, store.renewals.Load(), int32(2*3600/5), "not more often than its backoff says")
		store.Outage(nil)
		time.Sleep(6 * time.Second)
		require.NoError(t, h.Status().Err)
		assert.Equal(t, lease.Prefixes, present(t, store).Lease("a").Prefixes, "the same subnet again")

		require.NoError(t, stop())
		assert.Equal(t, 1, bytes.Count(log.Bytes(), []byte("level=WARN msg=\"lease store fails\"")), "logged once:\n%s", log.String())
	})
}

func TestHoldLostLease(t *testing.T) {
	for _, c := range []struct {
		name    string
		succeed func(t *testing.T, store *memory.Store, lost *subnet.Lease) // after the lease is removed
		want    error
	}{
		{
			name:    "free: the same subnet again",
			succeed: func(*testing.T, *memory.Store, *subnet.Lease) {},
		},
		{
			name: "taken by another node",
			succeed: func(t *testing.T, store *memory.Store, lost *subnet.Lease) {
				_, err := store.Acquire(t.Context(), subnet.Claim{Node: "b", Prefer: lost.Prefixes, Exact: true})
				require.NoError(t, err)
			},
			want: subnet.ErrLeaseLost,
		},
		{
			name: "reserved by now",
			succeed: func(t *testing.T, store *memory.Store, lost *subnet.Lease) {
				require.NoError(t, store.Reserve(t.Context(), lost.Prefixes, ""))
			},
			want: subnet.ErrLeaseLost,
		},
		{
			name: "network moved",
			succeed: func(t *testing.T, store *memory.Store, _ *subnet.Lease) {
				store.SetNetwork(network(t, `{"Network": "10.9.0.0/16"}`))
			},
			want: subnet.ErrLeaseLost,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := memory.New(network(t, small))
				h := held(t, store, subnet.Claim{Node: "a", Underlay: subnet.Addrs{V4: netip.MustParseAddr("192.0.2.1")}})
				lease := h.Lease()
				time.Sleep(time.Minute)
				require.NoError(t, store.Release(t.Context(), lease))
				c.succeed(t, store, lease)

				stop := run(t, h)
				h.Observe(present(t, store))
				synctest.Wait()
				if c.want == nil {
					got := present(t, store).Lease("a")
					require.NotNil(t, got, "claimed again without a wait")
					assert.Equal(t, lease.Prefixes, got.Prefixes)
					assert.Equal(t, lease.Underlay, got.Underlay)
					require.NoError(t, stop())
					return
				}
				err := stop()
				require.ErrorIs(t, err, c.want)
				assert.ErrorContains(t, err, lease.Prefixes.String(), "says which")
				assert.Nil(t, h.Lease())
				assert.Nil(t, present(t, store).Lease("a"), "took no other subnet in its place")
				require.ErrorIs(t, h.Run(t.Context()), subnet.ErrLeaseLost, "and does not when it is run again")

				if c.name != "network moved" {
					other, err := h.Acquire(t.Context()) // the caller's decision
					require.NoError(t, err)
					assert.NotEqual(t, lease.Prefixes, other.Prefixes)
				}
			})
		})
	}
}

func TestHoldPublishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &counting{Store: memory.New(network(t, small))}
		h := held(t, store, subnet.Claim{Node: "a", Backend: "vxlan", TTL: time.Hour})
		stop := run(t, h)
		moved := subnet.Addrs{V4: netip.MustParseAddr("192.0.2.9")}
		data := subnet.Data{V4: json.RawMessage(`{"VNI":1}`)}

		require.ErrorIs(t, h.Publish(moved, subnet.Data{V4: json.RawMessage(`{`)}), podweft.ErrInvalid)
		require.NoError(t, h.Publish(moved, data))
		synctest.Wait()
		got := present(t, store).Lease("a")
		assert.Equal(t, moved, got.Underlay)
		assert.Equal(t, data, got.Data)
		assert.Equal(t, "vxlan", got.Backend)
		assert.Equal(t, got.Prefixes, h.Lease().Prefixes)

		require.NoError(t, h.Publish(moved, data))
		synctest.Wait()
		assert.EqualValues(t, 1, store.updates.Load(), "nothing changed, nothing written")

		// What is published during an outage arrives after it, and only the last of it.
		store.Outage(errDown)
		for i := range 5 {
			require.NoError(t, h.Publish(subnet.Addrs{V4: netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)})}, data))
			time.Sleep(time.Second)
		}
		before := store.updates.Load()
		store.Outage(nil)
		time.Sleep(6 * time.Second)
		assert.Equal(t, "192.0.2.14", present(t, store).Lease("a").Underlay.String())
		assert.EqualValues(t, 1, store.updates.Load()-before)
		require.NoError(t, stop())
	})
}

// unwritable is a store that may refuse to write, and still prolongs leases: an etcd without space, a role that may only read.
type unwritable struct {
	counting
	full atomic.Bool
}

var errFull = errors.New("database space exceeded")

func (s *unwritable) Update(ctx context.Context, l *subnet.Lease) (*subnet.Lease, error) {
	if s.full.Load() {
		s.updates.Add(1)
		return nil, errFull
	}
	return s.counting.Update(ctx, l)
}

// TestHoldRenewsUnpublished: a live node's lease does not expire because what it has to say cannot be written.
func TestHoldRenewsUnpublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &unwritable{counting: counting{Store: memory.New(network(t, small))}}
		h := held(t, store, subnet.Claim{Node: "a", TTL: time.Minute})
		first := h.Lease()
		stop := run(t, h)
		store.full.Store(true)
		moved := subnet.Addrs{V4: netip.MustParseAddr("192.0.2.9")}
		require.NoError(t, h.Publish(moved, subnet.Data{}))

		time.Sleep(time.Hour)
		got := present(t, store).Lease("a")
		require.NotNil(t, got, "expired")
		assert.Equal(t, first.Revision, got.Revision, "the same lease all the time")
		assert.True(t, h.Lease().Expires.After(time.Now()))
		assert.ErrorIs(t, h.Status().Err, errFull)
		assert.GreaterOrEqual(t, store.renewals.Load(), int32(60*60/(20+5)), "every 15 to 20 seconds, or when it is tried again")
		assert.LessOrEqual(t, store.renewals.Load(), int32(60*60/15), "not with each try to publish")
		assert.Greater(t, store.updates.Load(), store.renewals.Load(), "and tried to publish")

		store.Outage(errDown)
		time.Sleep(20 * time.Second) // a lease has more left than that
		store.Outage(nil)
		store.full.Store(false)
		time.Sleep(6 * time.Second)
		require.NoError(t, h.Status().Err)
		assert.Equal(t, moved, present(t, store).Lease("a").Underlay)
		assert.EqualValues(t, 1, store.acquires.Load(), "never lost")
		require.NoError(t, stop())
	})
}

// TestHoldPublishesAgain: what somebody else wrote into our lease is put right, and two nodes by one name do not fight at
// full speed.
func TestHoldPublishesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &counting{Store: memory.New(network(t, small))}
		ours, theirs := subnet.Addrs{V4: netip.MustParseAddr("192.0.2.1")}, subnet.Addrs{V4: netip.MustParseAddr("192.0.2.2")}
		h := held(t, store, subnet.Claim{Node: "a", Underlay: ours})
		stop := run(t, h)
		scribble := func() {
			l := *present(t, store).Lease("a")
			l.Underlay = theirs
			_, err := store.Store.Update(t.Context(), &l)
			require.NoError(t, err)
			h.Observe(present(t, store))
		}
		time.Sleep(time.Minute)
		scribble()
		synctest.Wait()
		assert.Equal(t, ours, present(t, store).Lease("a").Underlay, "at once")

		store.updates.Store(0)
		for range 100 {
			scribble()
			time.Sleep(100 * time.Millisecond)
		}
		assert.LessOrEqual(t, store.updates.Load(), int32(11), "about once a second")
		time.Sleep(time.Second)
		assert.Equal(t, ours, present(t, store).Lease("a").Underlay)
		require.NoError(t, stop())
	})
}

// TestHoldIgnoresOldSnapshots: a watch that lags behind our own write is no reason to ask the store.
func TestHoldIgnoresOldSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &counting{Store: memory.New(network(t, small))}
		empty := present(t, store)
		h := held(t, store, subnet.Claim{Node: "a"})
		stop := run(t, h)
		time.Sleep(time.Minute)
		h.Observe(empty)
		h.Observe(present(t, store))
		synctest.Wait()
		assert.Zero(t, store.renewals.Load())
		require.NoError(t, stop())
	})
}

// overtaken answers when somebody else has heard of what came after what it was asked.
type overtaken struct {
	*memory.Store
	after func(*subnet.Lease) // before the next answer; nil: nothing
}

func (s *overtaken) answer(l *subnet.Lease, err error) (*subnet.Lease, error) {
	if after := s.after; after != nil && err == nil {
		s.after = nil
		after(l)
	}
	return l, err
}

func (s *overtaken) Acquire(ctx context.Context, c subnet.Claim) (*subnet.Lease, error) {
	return s.answer(s.Store.Acquire(ctx, c))
}

func (s *overtaken) Renew(ctx context.Context, l *subnet.Lease) (*subnet.Lease, error) {
	return s.answer(s.Store.Renew(ctx, l))
}

// TestHoldHearsBeforeItsAnswer: a snapshot that says that the lease is another's may come before the Store's answer to what it was asked
// before that. It counts all the same.
func TestHoldHearsBeforeItsAnswer(t *testing.T) {
	for _, asked := range []string{"claim", "renewal"} {
		t.Run(asked, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &overtaken{Store: memory.New(network(t, small))}
				h := held(t, store, subnet.Claim{Node: "a"})
				lease, doubtful := h.Lease(), present(t, store)
				if asked == "claim" {
					require.NoError(t, store.Release(t.Context(), lease))
					doubtful = present(t, store)
				} else {
					doubtful.Leases = nil
				}
				store.after = func(l *subnet.Lease) {
					require.NoError(t, store.Release(t.Context(), l))
					_, err := store.Store.Acquire(t.Context(), subnet.Claim{Node: "b", Prefer: l.Prefixes, Exact: true})
					require.NoError(t, err)
					h.Observe(present(t, store))
				}
				stop := run(t, h)
				h.Observe(doubtful)
				time.Sleep(time.Minute) // long before it is due for renewal
				require.ErrorIs(t, stop(), subnet.ErrLeaseLost)
			})
		})
	}
}

// TestHoldSeesLostStore: a Store that lost its data counts its revisions anew. The lease is claimed again, as it was.
func TestHoldSeesLostStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New(network(t, small))
		for _, node := range []string{"b", "c"} { // so that revisions have grown
			_, err := store.Acquire(t.Context(), subnet.Claim{Node: node})
			require.NoError(t, err)
		}
		h := held(t, store, subnet.Claim{Node: "a", Underlay: subnet.Addrs{V4: netip.MustParseAddr("192.0.2.1")}})
		lease := h.Lease()
		stop := run(t, h)
		h.Observe(present(t, store))
		time.Sleep(time.Minute)
		for _, l := range present(t, store).Leases {
			require.NoError(t, store.Release(t.Context(), l))
		}
		h.Observe(&subnet.Snapshot{Revision: 1, Network: network(t, small)})
		synctest.Wait()
		got := present(t, store).Lease("a")
		require.NotNil(t, got, "claimed again, without waiting for the renewal")
		assert.Equal(t, lease.Prefixes, got.Prefixes)
		assert.Equal(t, lease.Underlay, got.Underlay)
		require.NoError(t, stop())
	})
}

func TestHoldRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New(network(t, `{"Network": "10.0.0.0/8"}`))
		h := held(t, store, subnet.Claim{Node: "a", TTL: time.Minute})
		before := h.Lease()
		ended := make(chan error, 1)
		go func() { ended <- h.Run(t.Context()) }()
		time.Sleep(time.Hour)

		store.Outage(errDown)
		time.AfterFunc(time.Minute, func() { store.Outage(nil) })
		require.NoError(t, h.Release(t.Context()), "waits for the store")
		assert.Nil(t, present(t, store).Lease("a"))
		assert.Nil(t, h.Lease())
		require.NoError(t, <-ended, "Run ends with the lease")

		store.Outage(errDown)
		require.NoError(t, h.Release(t.Context()), "nothing to release")
		store.Outage(nil)
		again, err := h.Acquire(t.Context())
		require.NoError(t, err)
		assert.Equal(t, before.Prefixes, again.Prefixes, "prefers what it had")
		store.Outage(errDown)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = h.Release(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, errDown, "says what the store said")
	})
}

// TestHoldConcurrent is for the race detector: all methods at once.
func TestHoldConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New(network(t, small))
		h := held(t, store, subnet.Claim{Node: "a", TTL: time.Second})
		stop := run(t, h)
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				h.Observe(present(t, store))
				assert.NoError(t, h.Publish(subnet.Addrs{V4: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})}, subnet.Data{}))
				h.Status()
				if i%5 == 0 {
					assert.NoError(t, store.Release(t.Context(), h.Lease()))
				}
			})
		}
		wg.Wait()
		time.Sleep(10 * time.Second)
		got := present(t, store).Lease("a")
		require.NotNil(t, got)
		assert.Equal(t, "192.0.2.20", got.Underlay.String())
		require.NoError(t, stop())
	})
}
