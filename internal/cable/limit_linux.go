package cable

import (
	"context"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nl"
)

// Limit is how much may pass an end of a port, in one direction. The zero Limit is none.
type Limit struct {
	Rate  uint64 // bits per second
	Burst uint64 // bits
}

const (
	// leastBurst holds the longest packet that the kernel hands to a link as one, before it is cut (64 KiB and headers).
	leastBurst = 1 << 17
	// usualBurst is how much of a second's traffic passes at once where nobody says so.
	usualBurst = 100
	// longestWait is how long a packet waits before others are dropped, as long as with the bandwidth plugin of the reference set.
	longestWait = 25 * time.Millisecond
)

// Limit checks a limit.
func (f *Fields) Limit(field string, l Limit) {
	switch {
	case l.Rate == 0 && l.Burst != 0:
		f.Add(field+".Burst", l.Burst, "is a burst without a rate", "give a rate too, or neither")
	case l.Rate != 0 && l.Rate < 8:
		f.Add(field+".Rate", l.Rate, "is less than a byte per second", "use bits per second: 1000000")
	case l.Burst != 0 && l.Burst < 8:
		f.Add(field+".Burst", l.Burst, "is less than a byte", "use bits, or leave it out")
	case l.Burst/8 > math.MaxUint32:
		f.Add(field+".Burst", l.Burst, "is more than the kernel can count", "use less than 34359738368, or leave it out")
	}
}

// bucket is the limit as the kernel wants it.
func (l Limit) bucket() nl.TokenBucket {
	rate, burst := l.Rate/8, l.Burst/8
	if burst == 0 {
		burst = max(leastBurst, rate/usualBurst)
	}
	wait := rate / uint64(time.Second/longestWait)
	return nl.TokenBucket{Rate: rate, Burst: uint32(min(burst, math.MaxUint32)), Queue: uint32(min(wait+burst, math.MaxUint32))}
}

// text is the limit in messages.
func (l Limit) text(link string) string { return fmt.Sprintf("rate %dbit of link %s", l.Rate, link) }

// LimitHost limits what reaches the pod of a pair that was read, unless it is limited so.
func (p *Pair) LimitHost(ctx context.Context, node *Node) ([]Step, error) {
	limited, err := node.Limited(ctx, p.Have.Link, p.Ingress)
	if limited || err != nil {
		return nil, err
	}
	return SetLimit(p.Have.Link, p.Ingress), nil
}

// CheckHost reports a limit that the node's end lacks.
func (p *Pair) CheckHost(ctx context.Context, node *Node) error {
	return node.CheckLimit(ctx, p.Have.Link, p.Ingress)
}

// SetLimit limits what leaves a link. Where l is none, what limits it is somebody else's and stays.
func SetLimit(link nl.Link, l Limit) []Step {
	if l == (Limit{}) {
		return nil
	}
	return []Step{{
		Op: "set", Object: l.text(link.Name), Request: func(b *nl.Batch) { b.SetTokenBucket(link.Index, l.bucket()) },
		Lacking: unix.ENOENT, // TCA_KIND that nobody registered: qdisc_create in net/sched/sch_api.c
	}}
}

// Limited reports whether the link has the limit.
func (s Space) Limited(ctx context.Context, link nl.Link, l Limit) (bool, error) {
	if l == (Limit{}) {
		return true, nil
	}
	have, err := s.Conn.TokenBucket(ctx, link.Index)
	want := l.bucket()
	return have.Rate == want.Rate && have.Queue == want.Queue, err // the queue follows from the burst
}

// CheckLimit reports a limit that the link lacks.
func (s Space) CheckLimit(ctx context.Context, link nl.Link, l Limit) error {
	if ok, err := s.Limited(ctx, link, l); err != nil || ok {
		return err
	}
	return Missing(l.text(link.Name))
}
