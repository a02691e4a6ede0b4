package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/podweft/podweft/testnet"
)

const (
	// mostPairs is how many pairs of pods are pinged unless --sample says otherwise.
	mostPairs = 10_000
	// atOnce is how many pings are under way at a time.
	atOnce = 64
	// answerWithin is when a ping counts as lost. None is sent a second time.
	answerWithin = 3 * time.Second
)

// outside is what the machine beyond the underlay is called.
const outside = "outside"

// ping is one echo request and what became of it.
type ping struct {
	from, to *pod // to is nil for the machine outside
	addr     netip.Addr
	rtt      time.Duration
	err      error
}

func (p *ping) target() string {
	if p.to == nil {
		return outside
	}
	return p.to.name
}

// matrix is who reaches whom.
type matrix struct {
	pings []ping
	pairs int // of pods that were pinged, of
	all   int // that there are
}

// pairsOf chooses ordered pairs of different numbers below n: all n(n-1), or the first `most` of an order in which everybody
// has been first and second k times before anybody is k+1 times.
func pairsOf(n, most int, shuffle func(n int) []int) [][2]int {
	if n < 2 {
		return nil
	}
	distance := shuffle(n - 1)
	pairs := make([][2]int, min(most, n*(n-1)))
	for i := range pairs {
		from := i % n
		pairs[i] = [2]int{from, (from + 1 + distance[i/n]) % n}
	}
	return pairs
}

// newMatrix lists the pings: pods to pods, then every pod to the outside, in every family of the network. A sample of 0 is all
// pairs, within reason.
func newMatrix(c *cluster, sample int) *matrix {
	if sample == 0 {
		sample = mostPairs
	}
	pods := slices.Collect(c.pods())
	m := &matrix{all: len(pods) * (len(pods) - 1)}
	pairs := pairsOf(len(pods), sample, rand.Perm)
	m.pairs = len(pairs)
	for _, pair := range pairs {
		from, to := pods[pair[0]], pods[pair[1]]
		for _, addr := range to.addresses {
			m.pings = append(m.pings, ping{from: from, to: to, addr: addr})
		}
	}
	if c.tenant != nil {
		return m // nobody lends tenants an address of the outside's
	}
	for _, from := range pods {
		for _, addr := range c.fabric.Outside.Addrs() {
			m.pings = append(m.pings, ping{from: from, addr: addr})
		}
	}
	return m
}

// send sends every ping once. Its error says that pings could not be sent at all; one that fails says so itself.
func (m *matrix) send(ctx context.Context) (err error) {
	pingers := map[*pod]*testnet.Pinger{}
	defer func() {
		for _, p := range pingers {
			err = errors.Join(err, p.Close())
		}
	}()
	for _, p := range m.pings {
		if pingers[p.from] == nil {
			if pingers[p.from], err = p.from.machine.Pinger(); err != nil {
				delete(pingers, p.from)
				return err
			}
		}
	}
	work := make(chan *ping)
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for p := range work {
				p.send(ctx, pingers[p.from])
			}
		})
	}
	for i := range m.pings {
		work <- &m.pings[i]
	}
	close(work)
	workers.Wait()
	return ctx.Err()
}

func (p *ping) send(ctx context.Context, pinger *testnet.Pinger) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	p.rtt, p.err = pinger.Ping(ctx, p.addr)
}

// failed lists the pings that were not answered.
func (m *matrix) failed() []*ping {
	var failed []*ping
	for i := range m.pings {
		if m.pings[i].err != nil {
			failed = append(failed, &m.pings[i])
		}
	}
	return failed
}

// median is that of the round-trip times.
func (m *matrix) median() time.Duration {
	var rtts []time.Duration
	for _, p := range m.pings {
		if p.err == nil {
			rtts = append(rtts, p.rtt)
		}
	}
	if len(rtts) == 0 {
		return 0
	}
	slices.Sort(rtts)
	return rtts[len(rtts)/2]
}

// verdict is nil if everybody reached everybody.
func (m *matrix) verdict() error {
	failed := m.failed()
	if len(failed) == 0 {
		return nil
	}
	first := failed[0]
	return fmt.Errorf("%d of %d pings were not answered, the first from %s to %s: %w",
		len(failed), len(m.pings), first.from.name, first.target(), first.err)
}
