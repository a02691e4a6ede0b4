package nft_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nft"
)

func TestElementsFillManyMessages(t *testing.T) {
	const n = 20_000
	c, _ := dial(t)
	var b nft.Batch
	b.AddTable(ours, 0)
	b.AddSet(hosts)
	b.AddElements(hosts, addresses(n)...)
	assert.Greater(t, b.Len(), 5, "an attribute holds 64 KiB")
	require.NoError(t, c.Load(t.Context(), &b))
	elements, err := c.Elements(t.Context(), hosts)
	require.NoError(t, err)
	assert.Equal(t, addresses(n), elements)
}

// TestSmallSendBuffer stands for a user namespace, where a socket gets no more than any process may have.
func TestSmallSendBuffer(t *testing.T) {
	const n = 20_000
	c, _ := dial(t)
	c.FixSendBuffer(100_000)
	var b nft.Batch
	b.AddTable(ours, 0)
	b.AddSet(hosts)
	b.AddElements(hosts, addresses(n)...)

	err := c.Commit(t.Context(), &b)
	require.ErrorIs(t, err, nft.ErrTooLarge)
	require.ErrorIs(t, err, unix.EMSGSIZE)
	before, err := c.Generation(t.Context())
	require.NoError(t, err)

	require.NoError(t, c.Load(t.Context(), &b))
	after, err := c.Generation(t.Context())
	require.NoError(t, err)
	assert.Greater(t, after-before, uint32(2), "in several transactions")
	elements, err := c.Elements(t.Context(), hosts)
	require.NoError(t, err)
	assert.Len(t, elements, n)
}

// TestLoadStopsAtTheFirstFailure: what was sent before it is there, and what follows is not.
func TestLoadStopsAtTheFirstFailure(t *testing.T) {
	const n = 20_000
	c, _ := dial(t)
	c.FixSendBuffer(100_000)
	missing := nft.Chain{Table: ours, Name: "missing"}
	var b nft.Batch
	b.AddTable(ours, 0)
	b.AddSet(hosts)
	b.AddElements(hosts, addresses(n)...)
	b.FlushChain(missing)
	b.DeleteElements(hosts, addresses(n)...)

	err := c.Load(t.Context(), &b)
	require.ErrorIs(t, err, unix.ENOENT)
	require.ErrorContains(t, err, missing.ID())
	elements, err := c.Elements(t.Context(), hosts)
	require.NoError(t, err)
	assert.NotEmpty(t, elements)
	require.NoError(t, c.Load(t.Context(), &nft.Batch{}))
}

func TestOneConnManyGoroutines(t *testing.T) {
	c, _ := dial(t)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			table := nft.Table{Family: nft.INet, Name: fmt.Sprintf("t%d", i)}
			set := nft.Set{Table: table, Name: "s", Key: nft.IPv4Addr}
			for range 20 {
				var b nft.Batch
				b.AddTable(table, 0)
				b.AddSet(set)
				b.AddElements(set, addresses(i+1)...)
				assert.NoError(t, c.Commit(t.Context(), &b))
				elements, err := c.Elements(t.Context(), set)
				assert.NoError(t, err)
				assert.Equal(t, addresses(i+1), elements)
			}
		})
	}
	wg.Wait()
}

// TestAListIsWholeOrAnError lists a set that another socket keeps changing between two states: a list must be one or the
// other, or say that it could not be. Half of the set changes, so that a transaction is at work for long.
func TestAListIsWholeOrAnError(t *testing.T) {
	const n, changing = 6_000, 3_000 // a list of several reads
	c, node := dial(t)
	commit(t, c, func(b *nft.Batch) {
		b.AddTable(ours, 0)
		b.AddSet(hosts)
		b.AddElements(hosts, addresses(n)...)
	})
	other := open(t, node)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		var out, in nft.Batch
		last := addresses(n)[n-changing:]
		out.DeleteElements(hosts, last...)
		in.AddElements(hosts, last...)
		for {
			for _, b := range []*nft.Batch{&out, &in} {
				assert.NoError(t, other.Commit(t.Context(), b))
				time.Sleep(time.Millisecond) // a list in peace takes as long
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	whole := 0
	for range 50 {
		elements, err := c.Elements(t.Context(), hosts)
		if err != nil {
			require.ErrorIs(t, err, nft.ErrInterrupted)
			continue
		}
		whole++
		assert.Contains(t, []int{n, n - changing}, len(elements))
	}
	close(stop)
	wg.Wait()
	t.Logf("%d of 50 lists were whole", whole)
	elements, err := c.Elements(t.Context(), hosts)
	require.NoError(t, err)
	assert.Len(t, elements, n)
}
