package memory_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/memory"
	"github.com/podweft/podweft/subnet/storetest"
)

var errPulled = errors.New("cable pulled")

func TestStore(t *testing.T) {
	storetest.Run(t, storetest.Config{
		New:        func(t *testing.T, n *subnet.Network) subnet.Store { return memory.New(n) },
		SetNetwork: func(t *testing.T, s subnet.Store, n *subnet.Network) { s.(*memory.Store).SetNetwork(n) },
		Disconnect: func(t *testing.T, s subnet.Store, meanwhile func()) {
			s.(*memory.Store).Outage(errPulled)
			s.(*memory.Store).Outage(nil)
			meanwhile()
		},
		TTL: 100 * time.Millisecond,
	})
}

func store(t testing.TB) *memory.Store {
	n, err := subnet.ParseNetwork([]byte(`{"Network": "10.244.0.0/16"}`))
	require.NoError(t, err)
	return memory.New(n)
}

func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store(t)
		short, err := s.Acquire(t.Context(), subnet.Claim{Node: "short", TTL: time.Minute})
		require.NoError(t, err)
		long, err := s.Acquire(t.Context(), subnet.Claim{Node: "long"})
		require.NoError(t, err)
		ended := make(chan error, 1)
		go func() {
			var last error
			for _, last = range s.Watch(t.Context()) {
			}
			ended <- last
		}()
		synctest.Wait()

		s.Outage(errPulled)
		require.ErrorIs(t, <-ended, errPulled)
		_, err = s.Acquire(t.Context(), subnet.Claim{Node: "b"})
		require.ErrorIs(t, err, errPulled)
		_, err = s.Renew(t.Context(), short)
		require.ErrorIs(t, err, errPulled)
		_, err = s.Update(t.Context(), short)
		require.ErrorIs(t, err, errPulled)
		require.ErrorIs(t, s.Release(t.Context(), short), errPulled)
		require.ErrorIs(t, s.Reserve(t.Context(), short.Prefixes, ""), errPulled)
		require.ErrorIs(t, s.Unreserve(t.Context(), short.Prefixes), errPulled)
		for _, err := range s.Watch(t.Context()) {
			require.ErrorIs(t, err, errPulled)
		}

		time.Sleep(time.Hour)
		s.Outage(nil)
		_, err = s.Renew(t.Context(), short)
		require.ErrorIs(t, err, subnet.ErrLeaseLost, "time went on meanwhile")
		_, err = s.Renew(t.Context(), long)
		require.NoError(t, err)
	})
}

// TestExpiryOnTime: a watcher is woken when a lease expires, not when something else happens to change.
func TestExpiryOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store(t)
		_, err := s.Acquire(t.Context(), subnet.Claim{Node: "a", TTL: time.Hour})
		require.NoError(t, err)
		begun := time.Now()
		for snapshot, err := range s.Watch(t.Context()) {
			require.NoError(t, err)
			if snapshot.Lease("a") == nil {
				break
			}
		}
		assert.Equal(t, time.Hour, time.Since(begun))
	})
}

func TestContextOver(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := store(t).Acquire(ctx, subnet.Claim{Node: "a"})
	require.ErrorIs(t, err, context.Canceled)
}

func Example() {
	ctx := context.Background()
	network, err := subnet.ParseNetwork([]byte(`{"Network": "10.244.0.0/16", "SubnetMin": "10.244.8.0", "SubnetMax": "10.244.8.0"}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	store := memory.New(network)
	fmt.Println(store.Acquire(ctx, subnet.Claim{Node: "node-1"}))
	_, err = store.Acquire(ctx, subnet.Claim{Node: "node-2"})
	fmt.Println(errors.Is(err, subnet.ErrExhausted))
	// Output:
	// 10.244.8.0/24 of node-1 <nil>
	// true
}
