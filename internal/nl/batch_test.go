package nl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestFailuresBelongToTheirRequests has every seventh request of hundreds fail, within one send and across many.
func TestFailuresBelongToTheirRequests(t *testing.T) {
	const n = 1000
	for _, chunk := range []int{0, 1, 7, 64, n, 2 * n} {
		t.Run(fmt.Sprintf("%d a send", chunk), func(t *testing.T) {
			_, c, eth0 := newNode(t)
			if chunk != 0 {
				c.chunk = chunk
			}
			require.Nil(t, c.do(t, func(b *Batch) {
				for i := 0; i < n; i += 7 {
					b.AddRoute(routeTo(i, eth0, i%2 == 0))
				}
			}))
			errs := c.do(t, func(b *Batch) {
				for i := range n {
					b.AddRoute(routeTo(i, eth0, i%2 == 0))
				}
			})
			require.Len(t, errs, n)
			for i, err := range errs {
				if i%7 == 0 {
					require.ErrorIs(t, err, unix.EEXIST, i)
				} else {
					require.NoError(t, err, i)
				}
			}
			assert.Len(t, c.listed(t), n, "the others were made")
		})
	}
}

func TestNothingFails(t *testing.T) {
	_, c, eth0 := newNode(t)
	assert.Nil(t, c.do(t, func(*Batch) {}), "an empty batch")
	var b Batch
	b.AddRoute(routeTo(1, eth0, false))
	assert.Nil(t, c.Do(t.Context(), &b))
	errs := c.Do(t.Context(), &b) // a batch may be sent again
	require.Len(t, errs, 1)
	assert.ErrorIs(t, errs[0], unix.EEXIST)
	b.Reset()
	b.DeleteRoute(routeTo(1, eth0, false))
	assert.Nil(t, c.Do(t.Context(), &b))
}

func TestRequestsAreCarriedOutInOrder(t *testing.T) {
	_, c, eth0 := newNode(t)
	c.chunk = 3
	r := routeTo(1, eth0, true)
	errs := c.do(t, func(b *Batch) {
		for range 100 {
			b.AddRoute(r)
			b.DeleteRoute(r)
			b.DeleteRoute(r) // gone
			b.AddRoute(r)
			b.AddRoute(r) // there
			b.DeleteRoute(r)
		}
	})
	require.Len(t, errs, 600)
	for i, err := range errs {
		switch i % 6 {
		case 2:
			require.ErrorIs(t, err, unix.ESRCH, i)
		case 4:
			require.ErrorIs(t, err, unix.EEXIST, i)
		default:
			require.NoError(t, err, i)
		}
	}
}

func TestErrorsCarryTheKernelsExplanation(t *testing.T) {
	_, c, eth0 := newNode(t)
	r := routeTo(1, eth0, false)
	r.Gateway = netip.MustParseAddr("203.0.113.9")
	errs := c.do(t, func(b *Batch) {
		b.AddRoute(routeTo(2, eth0, false))
		b.AddRoute(r)
	})
	require.Len(t, errs, 2)
	require.NoError(t, errs[0])
	assert.ErrorIs(t, errs[1], unix.ENETUNREACH)
	assert.EqualError(t, errs[1], "network is unreachable (Nexthop has invalid gateway)")
}

// patient is a context that ends when it has been asked n times.
type patient struct {
	context.Context
	n *int
}

func (p patient) Err() error {
	if *p.n--; *p.n < 0 {
		return context.Canceled
	}
	return nil
}

func TestContextEndsMidway(t *testing.T) {
	_, c, eth0 := newNode(t)
	c.chunk = 10
	var b Batch
	for i := range 35 {
		b.AddRoute(routeTo(i, eth0, false))
	}
	sends := 2
	errs := c.Do(patient{t.Context(), &sends}, &b)
	require.Len(t, errs, 35)
	for i, err := range errs {
		if i < 20 {
			require.NoError(t, err, i)
		} else {
			require.ErrorIs(t, err, context.Canceled, i)
		}
	}
	assert.Len(t, c.listed(t), 20)
	assert.Nil(t, c.do(t, func(b *Batch) { b.DeleteRoute(routeTo(0, eth0, false)) }), "the connection is as good as before")
}

// shrink makes c's receive buffer as small as the kernel allows, some 2 KiB, while c goes on sending as if it had plenty.
func shrink(t *testing.T, c *Conn, chunk int) {
	t.Helper()
	require.NoError(t, c.raw.Control(func(fd uintptr) {
		require.NoError(t, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1))
	}))
	c.chunk = chunk
}

// TestLostAnswersAreNoSuccess has hundreds of requests fail whose answers do not fit in the receive buffer.
func TestLostAnswersAreNoSuccess(t *testing.T) {
	_, c, eth0 := newNode(t)
	const n = 500
	add := func(b *Batch) {
		for i := range n {
			b.AddRoute(routeTo(i, eth0, false))
		}
	}
	require.Nil(t, c.do(t, add))
	shrink(t, c, 100)

	var b Batch
	add(&b)
	done := make(chan []error, 1)
	go func() { done <- c.Do(t.Context(), &b) }()
	var errs []error
	select {
	case errs = <-done:
	case <-time.After(patience):
		c.Close()
		<-done
		require.Fail(t, "waits for an answer that the kernel has dropped")
	}
	require.Len(t, errs, n)
	lost := 0
	for i, err := range errs {
		require.Error(t, err, i)
		if errors.Is(err, errLost) {
			lost++
		} else {
			require.ErrorIs(t, err, unix.EEXIST, i)
		}
	}
	assert.Positive(t, lost)

	// What comes next is told its own answers, and no earlier ones.
	c.chunk = 1
	assert.Nil(t, c.do(t, func(b *Batch) {
		for i := range n {
			b.DeleteRoute(routeTo(i, eth0, false))
		}
	}))
	assert.Empty(t, c.listed(t))
}

// TestEveryAnswerFits is what makes lost answers rare: the size of a send follows from the buffer that was granted, also where
// the buffer cannot be forced, as in a user namespace.
func TestEveryAnswerFits(t *testing.T) {
	_, c, eth0 := newNode(t)
	for _, size := range []int{32 << 10, 100 << 10, 200 << 10, 4 << 20} {
		t.Run(fmt.Sprintf("%d KiB", size>>10), func(t *testing.T) {
			granted := 0
			require.NoError(t, c.raw.Control(func(fd uintptr) {
				require.NoError(t, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, size/2)) // the kernel doubles it
				granted, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
			}))
			c.chunk = max(16, min(512, granted/1024))
			r := routeTo(1, eth0, false)
			r.Gateway = netip.MustParseAddr("203.0.113.9") // refused with the longest explanation that we meet
			errs := c.do(t, func(b *Batch) {
				for range 2000 {
					b.AddRoute(r)
				}
			})
			require.Len(t, errs, 2000)
			for i, err := range errs {
				require.ErrorIs(t, err, unix.ENETUNREACH, i)
			}
		})
	}
}

// TestManyUseOneConn: batches and listings of many goroutines get their own answers.
func TestManyUseOneConn(t *testing.T) {
	_, c, eth0 := newNode(t)
	c.chunk = 8
	var wg sync.WaitGroup
	defer wg.Wait()
	for g := range 8 {
		wg.Go(func() {
			for range 20 {
				var b Batch
				for i := range 30 {
					b.AddRoute(routeTo(g*100+i, eth0, g%2 == 0))
				}
				assert.Nil(t, c.Do(t.Context(), &b))
				b.Reset()
				for i := range 40 {
					b.DeleteRoute(routeTo(g*100+i, eth0, g%2 == 0))
				}
				errs := c.Do(t.Context(), &b)
				if !assert.Len(t, errs, 40) {
					return
				}
				for i, err := range errs {
					assert.Equal(t, i >= 30, err != nil, i)
				}
			}
		})
	}
	for range 50 {
		mine := 0
		assert.NoError(t, c.Routes(t.Context(), func() { mine = 0 }, func(r Route) {
			if r.Protocol == protocol {
				mine++
			}
		}))
		assert.LessOrEqual(t, mine, 8*30)
	}
}

func TestClosedConn(t *testing.T) {
	_, c, eth0 := newNode(t)
	require.NoError(t, c.Close())
	errs := c.do(t, func(b *Batch) { b.AddRoute(routeTo(1, eth0, false)) })
	require.Len(t, errs, 1)
	assert.Error(t, errs[0])
	assert.ErrorContains(t, c.Routes(t.Context(), func() {}, func(Route) {}), "list routes")
}

func TestDialNowhere(t *testing.T) {
	_, err := Dial("/run/netns/no-such-namespace")
	assert.ErrorIs(t, err, unix.ENOENT)
	assert.ErrorContains(t, err, "open netlink socket")
	assert.ErrorContains(t, err, "/run/netns/no-such-namespace")
}

// BenchmarkBatch adds and deletes 512 routes, one send each.
func BenchmarkBatch(b *testing.B) {
	_, c, eth0 := newNode(b)
	var add, del Batch
	for i := range 512 {
		add.AddRoute(routeTo(i, eth0, false))
		del.DeleteRoute(routeTo(i, eth0, false))
	}
	b.ReportAllocs()
	for b.Loop() {
		require.Nil(b, c.Do(b.Context(), &add))
		require.Nil(b, c.Do(b.Context(), &del))
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/1024, "us/request")
}
