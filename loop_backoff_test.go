package podweft_test

import (
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
)

// assertBackoff checks that the waits between the given moments double from low to high, each shortened by up to a quarter.
func assertBackoff(t *testing.T, moments []time.Duration, low, high time.Duration) {
	t.Helper()
	for i := 1; i < len(moments); i++ {
		wait := moments[i] - moments[i-1]
		assert.LessOrEqual(t, wait, low, "wait %d", i)
		assert.GreaterOrEqual(t, wait, low-low/4, "wait %d", i)
		low = min(2*low, high)
	}
}

// tries returns when the object was tried.
func tries(passes []seen, object string) (at []time.Duration) {
	for _, p := range passes {
		for _, tried := range p.Tried {
			if tried == object {
				at = append(at, p.At)
			}
		}
	}
	return at
}

func TestLoopBacksOffFromAnObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newToy()
		d.broken["b"] = errUnreachable
		l := podweft.NewLoop(d, podweft.LoopConfig{RetryMin: 100 * ms, RetryMax: time.Second})
		l.Set(state{"a": "1", "b": "1"})
		run(t, l)
		time.Sleep(10 * time.Second)
		passes := d.took()
		got := tries(passes, "b=1")
		assertBackoff(t, got, 100*ms, time.Second)
		assert.NotEqual(t, 100*ms, got[1]-got[0], "jitter")
		assert.InDelta(t, 14.5, len(got), 1.5, "10 s: 13 if after 0.1, 0.3, 0.7 and 1.5 s, then every second; 16 if all are a quarter sooner")
		assert.Len(t, passes, len(got), "no pass but for a try")
		assert.Equal(t, []time.Duration{0}, tries(passes, "a=1"), "what is in force is not tried again")
		assert.Equal(t, len(got), l.Status().Failing[0].Attempts)

		d.do(func() { clear(d.broken) })
		time.Sleep(time.Second)
		assert.NoError(t, l.Status().Last.Err)
		assert.Empty(t, l.Status().Failing)
		passes = d.took()
		require.Len(t, passes, 1)
		assert.True(t, passes[0].Watching, "an object's failure does not cost a shadow")

		time.Sleep(10 * ms)
		d.do(func() { d.broken["b"] = errUnreachable; delete(d.kernel, "b") })
		d.hint()
		synctest.Wait()
		assert.Equal(t, 1, l.Status().Failing[0].Attempts, "success is the end of the count")
	})
}

func TestLoopHintPassesHeldObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newToy()
		spec := state{"good": "1"}
		for i := range 10 {
			bad := "bad" + strconv.Itoa(i)
			spec[bad] = "1"
			d.broken[bad] = errUnreachable
		}
		l := podweft.NewLoop(d, podweft.LoopConfig{RetryMin: time.Minute})
		l.Set(spec)
		run(t, l)
		require.Len(t, d.took(), 1)
		time.Sleep(10 * time.Second)

		for range 100 {
			d.do(func() { delete(d.kernel, "good") })
			d.hint()
			now := time.Since(d.began)
			assert.Equal(t, []seen{{now, true, []string{"good=1"}}}, d.took(), "at once, and it alone")
			time.Sleep(10 * ms)
		}
		assert.Len(t, l.Status().Failing, 10)
	})
}

func TestLoopHintsDoNotShortenBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newToy()
		d.broken["b"] = errUnreachable
		l := podweft.NewLoop(d, podweft.LoopConfig{})
		l.Set(state{"b": "1"})
		run(t, l)
		for range 1000 {
			time.Sleep(10 * ms)
			d.hint()
		}
		passes := d.took()
		assert.GreaterOrEqual(t, len(passes), 1000, "each hint runs a pass")
		got := tries(passes, "b=1")
		assertBackoff(t, got, 100*ms, 30*time.Second)
		assert.Len(t, got, 8, "10 s: about 0, 75, 225, 525 ms, 1.1, 2.3, 4.7 and 9.5 s")
		failure := l.Status().Failing[0]
		assert.Equal(t, 8, failure.Attempts, "a pass that holds an object back is no try")
		assert.EqualError(t, failure.Err, "create b=1: network is unreachable")
	})
}

func TestLoopChangedObjectIsTriedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newToy()
		d.broken["b"], d.broken["c"] = errUnreachable, errUnreachable
		l := podweft.NewLoop(d, podweft.LoopConfig{RetryMin: time.Minute})
		l.Set(state{"b": "1", "c": "1"})
		run(t, l)
		time.Sleep(70 * time.Second) // the second try is over, the third far
		require.Len(t, d.took(), 2)

		l.Set(state{"b": "2", "c": "1"})
		passes := d.took()
		require.Len(t, passes, 1)
		assert.Equal(t, []string{"b=2"}, passes[0].Tried, "the same wish stays held, a new one is not")
		failing := l.Status().Failing
		require.Len(t, failing, 2)
		assert.Equal(t, 1, failing[0].Attempts, "a new wish has a count of its own")
		assert.Equal(t, 2, failing[1].Attempts)

		time.Sleep(10 * ms)
		l.Set(state{"c": "1"})
		synctest.Wait()
		assert.Len(t, l.Status().Failing, 1, "what is not wanted any more is forgotten")
	})
}

func TestLoopObjectsThatFailApartAreTriedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newToy()
		l := podweft.NewLoop(d, podweft.LoopConfig{RetryMin: time.Second, RetryMax: time.Second})
		spec := state{}
		run(t, l)
		for i := range 100 { // one more failing object every 5 ms
			name := strconv.Itoa(i)
			d.do(func() { d.broken[name] = errUnreachable })
			spec = with(spec, name, "1")
			l.Set(spec)
			time.Sleep(5 * ms)
		}
		d.took()
		time.Sleep(20 * time.Second)
		assert.Less(t, len(d.took()), 20*5, "a few passes in each second, not one for each object")
	})
}

func with(s state, name, value string) state {
	next := state{name: value}
	for k, v := range s {
		if k != name {
			next[k] = v
		}
	}
	return next
}

func TestLoopRetriesPassThatFailedAsAWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newToy()
		d.dump = errors.New("interrupted")
		l := podweft.NewLoop(d, podweft.LoopConfig{RetryMax: time.Second})
		err := make(chan error, 1)
		generation := l.Set(state{"a": "1"})
		go func() { err <- l.Wait(t.Context(), generation) }()
		run(t, l)
		assert.EqualError(t, <-err, "list toys: interrupted")
		time.Sleep(10 * time.Second)
		var moments []time.Duration
		for _, p := range d.took() {
			moments = append(moments, p.At)
			assert.False(t, p.Watching, "the driver has no picture it can trust")
		}
		assertBackoff(t, moments, 100*ms, time.Second)
		assert.InDelta(t, 13, len(moments), 2)

		d.do(func() { d.dump = nil })
		time.Sleep(time.Second)
		passes := d.took()
		require.Len(t, passes, 1)
		assert.False(t, passes[0].Watching, "the first pass after the failure reads everything")
		assert.NoError(t, l.Status().Last.Err)
		time.Sleep(10 * ms)
		d.hint()
		passes = d.took()
		require.Len(t, passes, 1)
		assert.True(t, passes[0].Watching)

		time.Sleep(10 * ms)
		d.do(func() { d.dump = errors.New("interrupted again") })
		d.hint()
		assert.True(t, d.took()[0].Watching)
		time.Sleep(100 * ms)
		assert.False(t, d.took()[0].Watching, "what failed as a whole has voided the picture")
	})
}

func TestLoopHintsTryAFailedPassAgainButGently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newToy()
		d.dump = errors.New("interrupted")
		l := podweft.NewLoop(d, podweft.LoopConfig{RetryMax: time.Hour})
		l.Set(state{})
		run(t, l)
		time.Sleep(time.Minute) // the tenth try was after 51 s or sooner, the next is after 77 s or later
		require.Len(t, d.took(), 10)
		d.hint()
		assert.Len(t, d.took(), 1, "a lone hint runs a pass, however long the wait would have been")
		for range 1000 {
			time.Sleep(ms)
			d.hint()
		}
		assert.InDelta(t, 1000/75, len(d.took()), 1, "hints in a storm: one pass in three quarters of RetryMin")
		d.do(func() { d.dump = nil })
		l.Set(state{})
		time.Sleep(75 * ms)
		synctest.Wait()
		assert.NoError(t, l.Status().Last.Err)
	})
}

func TestLoopPassThatFailedAsAWholeForgetsNoObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newToy()
		d.broken["b"] = errUnreachable
		l := podweft.NewLoop(d, podweft.LoopConfig{})
		l.Set(state{"b": "1"})
		run(t, l)
		time.Sleep(time.Minute)
		before := l.Status().Failing
		require.Len(t, before, 1)
		d.do(func() { d.dump = errors.New("interrupted") })
		time.Sleep(10 * ms)
		d.hint()
		synctest.Wait()
		assert.EqualError(t, l.Status().Last.Err, "list toys: interrupted")
		assert.Equal(t, before, l.Status().Failing)
	})
}

func TestLoopDrift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newToy()
		l := podweft.NewLoop(d, podweft.LoopConfig{})
		run(t, l)
		steps := []struct {
			name string
			do   func()
			want uint64
		}{
			{"a new Spec is no drift", func() { l.Set(state{"a": "1", "b": "1", "c": "1"}) }, 0},
			{"a hint without a change is none", func() { d.hint() }, 0},
			{"somebody deleted one", func() { d.do(func() { delete(d.kernel, "a") }); d.hint() }, 1},
			{"changed one and made another", func() { d.do(func() { d.kernel["a"] = "2"; d.kernel["x"] = "1" }); d.hint() }, 3},
			{"the next Spec is no drift", func() { l.Set(state{"a": "2", "b": "1", "c": "1"}) }, 3},
			{"two deleted, one of which cannot be put back", func() {
				d.do(func() { delete(d.kernel, "a"); delete(d.kernel, "b"); d.broken["b"] = errUnreachable })
				d.hint()
			}, 5},
			{"that one is not counted again", func() { d.hint() }, 5},
			{"others are, while it fails", func() { d.do(func() { delete(d.kernel, "a") }); d.hint() }, 6},
			{"nor when it is repaired", func() { d.do(func() { clear(d.broken) }) }, 6},
			{"a Spec that was never in force cannot drift", func() {
				d.do(func() { d.broken["b"] = errUnreachable })
				l.Set(state{"a": "2", "b": "2"})
				synctest.Wait()
				d.do(func() { clear(d.broken) })
			}, 6},
		}
		for _, step := range steps {
			step.do()
			time.Sleep(time.Minute)
			synctest.Wait()
			assert.Equal(t, step.want, l.Status().Drift, step.name)
		}
		assert.NoError(t, l.Status().Last.Err)
	})
}

func TestLoopResync(t *testing.T) {
	tests := []struct {
		name   string
		resync time.Duration
		period time.Duration
	}{
		{"default", 0, 5 * time.Minute},
		{"a minute", time.Minute, time.Minute},
		{"never", -1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newToy()
				l := podweft.NewLoop(d, podweft.LoopConfig{Resync: tt.resync})
				l.Set(state{"a": "1"})
				run(t, l)
				require.Len(t, d.took(), 1)
				if tt.period == 0 {
					time.Sleep(24 * time.Hour)
					assert.Empty(t, d.took())
					return
				}
				var read time.Duration // when the kernel was last read
				at := func(moment time.Duration) { time.Sleep(moment - time.Since(d.began)) }
				for range 20 {
					at(read + tt.period/2)
					d.hint() // does not put it off: that pass may trust the driver's shadow
					passes := d.took()
					require.Len(t, passes, 1)
					require.True(t, passes[0].Watching)

					d.do(func() { delete(d.kernel, "a") }) // and nobody tells us
					at(read + tt.period*3/4 - 1)
					require.Empty(t, d.took())
					at(read + tt.period)
					passes = d.took()
					require.Len(t, passes, 1)
					assert.False(t, passes[0].Watching, "it reads everything")
					assert.Equal(t, []string{"a=1"}, passes[0].Tried)
					read = passes[0].At
				}
			})
		})
	}
}

func TestLoopRestartsWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newToy()
		l := podweft.NewLoop(d, podweft.LoopConfig{RetryMax: time.Second})
		l.Set(state{"a": "1"})
		run(t, l)
		time.Sleep(time.Minute)
		require.Len(t, d.took(), 1)

		d.do(func() { d.deaf = errors.New("no buffer space available") })
		d.breaks <- errors.New("socket closed")
		synctest.Wait()
		broke := time.Since(d.began)
		assert.False(t, l.Status().Listening)
		assert.EqualError(t, l.Status().WatchErr, "socket closed")
		for range 3 {
			l.Set(state{"a": "1"})
			passes := d.took()
			require.Len(t, passes, 1, "passes go on")
			assert.False(t, passes[0].Watching, "and read everything")
			time.Sleep(10 * ms)
		}
		time.Sleep(10 * time.Second)
		assert.Empty(t, d.took(), "a Watch that does not get to listen is no hint")
		assert.EqualError(t, l.Status().WatchErr, "no buffer space available")
		d.mu.Lock()
		moments := append([]time.Duration{broke}, d.watches[1:]...)
		d.mu.Unlock()
		assert.Greater(t, len(moments), 10)
		assertBackoff(t, moments, 100*ms, time.Second)

		d.do(func() { d.deaf = nil; delete(d.kernel, "a") })
		time.Sleep(time.Second)
		passes := d.took()
		require.Len(t, passes, 1, "one pass when it listens again")
		assert.False(t, passes[0].Watching, "which reads everything")
		assert.Equal(t, []string{"a=1"}, passes[0].Tried)
		assert.True(t, l.Status().Listening)
		assert.NoError(t, l.Status().WatchErr)
		time.Sleep(10 * ms)
		d.hint()
		assert.True(t, d.took()[0].Watching)

		time.Sleep(time.Minute)
		d.breaks <- nil
		synctest.Wait()
		assert.EqualError(t, l.Status().WatchErr, "watch ended by itself")
		time.Sleep(100 * ms)
		synctest.Wait()
		assert.True(t, l.Status().Listening, "what had listened for long is started again soon")
	})
}

func TestLoopTrustsNoWatchThatRestartedDuringAPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newToy()
		l := podweft.NewLoop(d, podweft.LoopConfig{})
		l.Set(state{})
		run(t, l)
		time.Sleep(time.Second)
		d.took()
		d.do(func() { d.takes = time.Second })
		d.hint()
		time.Sleep(100 * ms)
		d.breaks <- errors.New("socket closed")
		time.Sleep(2 * time.Second)
		passes := d.took()
		require.Len(t, passes, 2)
		assert.True(t, passes[0].Watching)
		assert.False(t, passes[1].Watching, "what happened between the two watches, nobody saw")
	})
}

func TestLoopLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey || a.Key == "retry" {
					return slog.Attr{}
				}
				return a
			},
		}))
		d := newToy()
		l := podweft.NewLoop(d, podweft.LoopConfig{Logger: logger, RetryMax: time.Second})
		l.Set(state{"a": "1", "b": "1", "c": "1", "d": "1"})
		run(t, l)
		time.Sleep(time.Second)
		steps := []struct {
			name string
			do   func()
			want string
		}{
			{"all is well", func() {}, ""},
			{"two fail", func() {
				d.do(func() { clear(d.kernel); d.broken["b"], d.broken["c"] = errUnreachable, errUnreachable })
				d.hint()
			}, `level=WARN msg="objects not in force" err="create b=1: network is unreachable" new=2 failing=2`},
			{"and go on failing, which is no news", func() { time.Sleep(time.Minute) }, ""},
			{"a third", func() {
				d.do(func() { d.broken["a"] = podweft.ErrConflict; delete(d.kernel, "a") })
				d.hint()
			}, `level=WARN msg="objects not in force" err="create a=1: another program's object is in the way" new=1 failing=3`},
			{"another reason", func() {
				d.do(func() { d.broken["b"] = errors.New("device is down") })
				time.Sleep(time.Second)
			}, `level=WARN msg="objects not in force" err="create b=1: device is down" new=1 failing=3`},
			{"one recovers", func() {
				d.do(func() { delete(d.broken, "a") })
				time.Sleep(time.Second)
			}, `level=INFO msg="objects in force again" failing=2`},
			{"the dump fails, twice", func() {
				d.do(func() { d.dump = errors.New("interrupted") })
				l.Set(state{})
				time.Sleep(76 * ms)
				l.Set(state{})
			}, `level=WARN msg="pass failed" err="list toys: interrupted" failing=2` + "\n" +
				`level=WARN msg="pass failed" err="list toys: interrupted" failing=2`},
			{"nothing is wanted", func() {
				d.do(func() { d.dump = nil; clear(d.broken) })
				time.Sleep(time.Second)
			}, `level=INFO msg="objects in force again" failing=0`},
			{"Watch breaks", func() {
				d.breaks <- errors.New("socket closed")
				time.Sleep(time.Second)
			}, `level=WARN msg="watch broke" err="socket closed"` + "\n" + `level=INFO msg="watching again"`},
		}
		for _, step := range steps {
			log.Reset()
			step.do()
			time.Sleep(10 * ms)
			synctest.Wait()
			assert.Equal(t, step.want, strings.TrimSpace(log.String()), step.name)
		}
	})
}
