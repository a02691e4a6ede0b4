package podweft_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
)

// still is a driver that returns the same plan always: what remains is the Loop's own cost.
type still struct{ plan podweft.Plan }

func (d *still) Plan(context.Context, struct{}) (podweft.Plan, error) { return d.plan, nil }

func (d *still) Apply(ctx context.Context, _ struct{}) (podweft.Plan, error) {
	pass := podweft.PassOf(ctx)
	var failed []error
	for i := range d.plan {
		c := &d.plan[i]
		if pass.Held(c.Object) {
			c.Err = podweft.ErrHeld
		}
		if c.Err != nil {
			failed = append(failed, c.Err)
		}
	}
	if failed == nil {
		return d.plan, nil
	}
	return d.plan, d.plan.Err()
}

func (d *still) Watch(ctx context.Context, changed func()) error {
	changed()
	<-ctx.Done()
	return nil
}

// BenchmarkLoopPass is one Set and the pass it causes, over a plan of 15,000 objects (5,000 peers, each with route,
// neighbour and FDB entry), each of which the driver asks Held about.
func BenchmarkLoopPass(b *testing.B) {
	for _, failing := range []int{0, 10, 15000} {
		b.Run(fmt.Sprintf("objects=15000/failing=%d", failing), func(b *testing.B) {
			d := &still{}
			for i := range 15000 {
				o := object{fmt.Sprintf("route 10.%d.%d.0/24", i>>8, i&255), "via 192.0.2.9"}
				c := podweft.Change{Op: podweft.Create, Object: o}
				if i < failing {
					c.Err = &podweft.OpError{Op: "create", Object: o, Err: errUnreachable}
				}
				d.plan = append(d.plan, c)
			}
			// The longest waits: what fails once is held for the whole benchmark.
			l := podweft.NewLoop(d, podweft.LoopConfig{Coalesce: -1, RetryMin: 1 << 60, RetryMax: 1 << 60})
			done := make(chan error)
			ctx, stop := context.WithCancel(b.Context())
			go func() { done <- l.Run(ctx) }()
			l.Wait(ctx, l.Set(struct{}{}))
			b.ReportAllocs()
			for b.Loop() {
				l.Wait(ctx, l.Set(struct{}{}))
			}
			b.StopTimer()
			require.Len(b, l.Status().Failing, failing)
			stop()
			require.NoError(b, <-done)
		})
	}
}
