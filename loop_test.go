package podweft_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
)

// state is the toy's Spec, and its kernel: a value for each name.
type state map[string]string

type object struct{ name, value string }

func (o object) ID() string     { return o.name }
func (o object) String() string { return o.name + "=" + o.value }

// seen is what the driver saw of one pass: when it began, whether its Watch could be trusted, and which objects it tried
// to change.
type seen struct {
	At       time.Duration
	Watching bool
	Tried    []string
}

// toy is a driver whose kernel is a map and whose every method can be made to fail or to take its time.
type toy struct {
	began time.Time

	mu      sync.Mutex
	kernel  state
	broken  map[string]error // why an object cannot be changed
	dump    error            // why the kernel cannot be read
	takes   time.Duration    // how long an Apply takes
	passes  []seen
	applied []state

	listens time.Duration // how long Watch takes to listen
	deaf    error         // why Watch cannot listen
	watches []time.Duration
	changed func()
	breaks  chan error // breaks a Watch that listens
}

func newToy() *toy {
	return &toy{began: time.Now(), kernel: state{}, broken: map[string]error{}, breaks: make(chan error)}
}

func (d *toy) Plan(ctx context.Context, spec state) (podweft.Plan, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.diff(spec), nil
}

func (d *toy) diff(spec state) (plan podweft.Plan) {
	for _, name := range slices.Sorted(maps.Keys(spec)) {
		switch have, exists := d.kernel[name]; {
		case !exists:
			plan = append(plan, podweft.Change{Op: podweft.Create, Object: object{name, spec[name]}})
		case have != spec[name]:
			plan = append(plan, podweft.Change{Op: podweft.Update, Object: object{name, spec[name]}})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.kernel)) {
		if _, wanted := spec[name]; !wanted {
			plan = append(plan, podweft.Change{Op: podweft.Delete, Object: object{name, d.kernel[name]}})
		}
	}
	return plan
}

func (d *toy) Apply(ctx context.Context, spec state) (podweft.Plan, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	pass := podweft.PassOf(ctx)
	d.passes = append(d.passes, seen{At: time.Since(d.began), Watching: pass.Watching()})
	d.applied = append(d.applied, spec)
	if err := d.linger(ctx); err != nil {
		return nil, err
	}
	if d.dump != nil {
		return nil, &podweft.OpError{Op: "list", Object: podweft.Named("toys"), Err: d.dump}
	}
	plan := d.diff(spec)
	for i := range plan {
		d.make(&plan[i], pass)
	}
	return plan, plan.Err()
}

// linger is the time an Apply takes, without the lock: the test goes on, and so does the kernel.
func (d *toy) linger(ctx context.Context) error {
	takes := d.takes
	d.mu.Unlock()
	defer d.mu.Lock()
	select {
	case <-time.After(takes):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *toy) make(c *podweft.Change, pass podweft.Pass) {
	if pass.Held(c.Object) {
		c.Err = podweft.ErrHeld
		return
	}
	last := &d.passes[len(d.passes)-1]
	last.Tried = append(last.Tried, c.Object.String())
	if err := d.broken[c.Object.ID()]; err != nil {
		c.Err = &podweft.OpError{Op: c.Op.String(), Object: c.Object, Err: err}
		return
	}
	if o := c.Object.(object); c.Op == podweft.Delete {
		delete(d.kernel, o.name)
	} else {
		d.kernel[o.name] = o.value
	}
}

func (d *toy) Watch(ctx context.Context, changed func()) error {
	d.mu.Lock()
	d.watches = append(d.watches, time.Since(d.began))
	listens, deaf := d.listens, d.deaf
	d.mu.Unlock()
	select {
	case <-time.After(listens):
	case <-ctx.Done():
		return nil
	}
	if deaf != nil {
		return deaf
	}
	d.mu.Lock()
	d.changed = changed
	d.mu.Unlock()
	changed()
	select {
	case err := <-d.breaks:
		return err
	case <-ctx.Done():
		return nil
	}
}

// hint is the kernel's word that it may have moved.
func (d *toy) hint() {
	d.mu.Lock()
	changed := d.changed
	d.mu.Unlock()
	changed()
}

// do changes the toy while a Loop runs over it.
func (d *toy) do(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

// took returns the passes since it was last called, when all that can happen now has happened.
func (d *toy) took() []seen {
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	passes := d.passes
	d.passes = nil
	return passes
}

// run runs the loop until the test ends, and then expects it to return nil and to have ended all it started (synctest
// fails a bubble in which a goroutine is left).
func run(t *testing.T, l *podweft.Loop[state]) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- l.Run(t.Context()) }()
	t.Cleanup(func() { assert.NoError(t, <-done) })
	synctest.Wait()
}

const ms = time.Millisecond

var errUnreachable = errors.New("network is unreachable")

func TestLoopListensBeforeItReads(t *testing.T) {
	tests := []struct {
		name  string
		toy   func(*toy)
		after time.Duration
		want  []seen
	}{
		{"Watch listens at once", func(d *toy) {}, 0, []seen{{0, false, []string{"a=1"}}}},
		{"Watch takes a second", func(d *toy) { d.listens = time.Second }, time.Second,
			[]seen{{time.Second, false, []string{"a=1"}}}},
		{"Watch fails after a second", func(d *toy) { d.listens, d.deaf = time.Second, errUnreachable }, time.Second,
			[]seen{{time.Second, false, []string{"a=1"}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newToy()
				tt.toy(d)
				l := podweft.NewLoop(d, podweft.LoopConfig{})
				l.Set(state{"a": "1"})
				run(t, l)
				if tt.after > 0 {
					time.Sleep(tt.after - 1)
					assert.Empty(t, d.took(), "read the kernel before it listened")
					time.Sleep(time.Nanosecond)
				}
				assert.Equal(t, tt.want, d.took())
			})
		})
	}
}

func TestLoopDoesNothingWithoutSpec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newToy()
		l := podweft.NewLoop(d, podweft.LoopConfig{})
		run(t, l)
		time.Sleep(time.Second)
		d.hint()
		time.Sleep(time.Hour)
		assert.Empty(t, d.took())
		assert.Equal(t, podweft.Status{Listening: true}, l.Status())

		assert.EqualValues(t, 1, l.Set(nil), "an empty Spec is a Spec")
		assert.Len(t, d.took(), 1)
	})
}

func TestLoopCoalesces(t *testing.T) {
	type event struct {
		at  time.Duration
		set bool // else a hint
	}
	tests := []struct {
		name   string
		cfg    podweft.LoopConfig
		takes  time.Duration
		events []event
		want   []time.Duration
	}{
		{name: "a lone hint goes at once", events: []event{{at: 100 * ms}}, want: []time.Duration{100 * ms}},
		{name: "a lone Set goes at once", events: []event{{at: 100 * ms, set: true}}, want: []time.Duration{100 * ms}},
		{
			name:   "those in the rest share one pass at its end",
			events: []event{{at: 100 * ms}, {at: 101 * ms}, {at: 102 * ms, set: true}, {at: 104 * ms}},
			want:   []time.Duration{100 * ms, 105 * ms},
		},
		{
			name:   "after the rest the next goes at once again",
			events: []event{{at: 100 * ms}, {at: 101 * ms}, {at: 111 * ms}},
			want:   []time.Duration{100 * ms, 105 * ms, 111 * ms},
		},
		{
			name:   "a hint during a pass gets one of its own, after the rest",
			takes:  20 * ms,
			events: []event{{at: 100 * ms}, {at: 110 * ms}, {at: 111 * ms}},
			want:   []time.Duration{100 * ms, 125 * ms},
		},
		{
			name:   "a Set during a pass likewise",
			takes:  20 * ms,
			events: []event{{at: 100 * ms}, {at: 119 * ms, set: true}},
			want:   []time.Duration{100 * ms, 125 * ms},
		},
		{
			name:   "a longer rest",
			cfg:    podweft.LoopConfig{Coalesce: 50 * ms},
			events: []event{{at: 100 * ms}, {at: 101 * ms}},
			want:   []time.Duration{100 * ms, 150 * ms},
		},
		{
			name:   "no rest",
			cfg:    podweft.LoopConfig{Coalesce: -1},
			events: []event{{at: 100 * ms}, {at: 101 * ms}, {at: 102 * ms, set: true}},
			want:   []time.Duration{100 * ms, 101 * ms, 102 * ms},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newToy()
				l := podweft.NewLoop(d, tt.cfg)
				l.Set(state{})
				run(t, l)
				require.Len(t, d.took(), 1)
				d.do(func() { d.takes = tt.takes })
				for _, e := range tt.events {
					time.Sleep(e.at - time.Since(d.began))
					if e.set {
						l.Set(state{})
					} else {
						d.hint()
					}
					synctest.Wait()
				}
				time.Sleep(time.Second)
				var got []time.Duration
				for _, p := range d.took() {
					got = append(got, p.At)
					assert.True(t, p.Watching, "nothing forbids the driver to use its shadow")
				}
				assert.Equal(t, tt.want, got)
			})
		})
	}
}

func TestLoopHintStormAllowsOnePassPerRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newToy()
		l := podweft.NewLoop(d, podweft.LoopConfig{})
		l.Set(state{})
		run(t, l)
		d.took()
		time.Sleep(time.Second)
		for range 1000 {
			d.hint()
			time.Sleep(100 * time.Microsecond)
		}
		time.Sleep(time.Second)
		assert.Len(t, d.took(), 21, "100 ms of hints: one pass at once, then one every 5 ms")
	})
}

func TestLoopLatestSpecWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newToy()
		d.takes = 20 * ms
		l := podweft.NewLoop(d, podweft.LoopConfig{})
		for i := range 3 {
			assert.EqualValues(t, i+1, l.Set(state{"before": fmt.Sprint(i + 1)}))
		}
		run(t, l)
		for i := range 3 {
			assert.EqualValues(t, i+4, l.Set(state{"during": fmt.Sprint(i + 4)}))
			time.Sleep(ms)
		}
		require.NoError(t, l.Wait(t.Context(), 6))
		assert.Equal(t, []state{{"before": "3"}, {"during": "6"}}, d.applied)
		assert.Equal(t, state{"during": "6"}, d.kernel)
		assert.EqualValues(t, 6, l.Status().Last.Generation)
	})
}

func TestLoopWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newToy()
		l := podweft.NewLoop(d, podweft.LoopConfig{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		assert.NoError(t, l.Wait(ctx, 0), "nothing was set, nothing is to wait for")
		first := l.Set(state{"a": "1"})
		assert.ErrorIs(t, l.Wait(ctx, first), context.DeadlineExceeded, "nobody runs the loop")

		run(t, l)
		assert.NoError(t, l.Wait(t.Context(), first))

		waited := make(chan time.Duration)
		future := first + 2
		go func() {
			assert.NoError(t, l.Wait(t.Context(), future))
			waited <- time.Since(d.began)
		}()
		time.Sleep(time.Second)
		l.Set(state{"a": "2"})
		time.Sleep(time.Second)
		d.do(func() { d.takes = 10 * ms })
		assert.Equal(t, future, l.Set(state{"a": "3"}))
		assert.Equal(t, 3010*ms, <-waited, "the wait ends when the pass does")
		assert.NoError(t, l.Wait(t.Context(), first), "a later generation serves as well")
	})
}

func TestLoopWaitReturnsWhatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newToy()
		d.broken["b"] = errUnreachable
		d.broken["c"] = podweft.ErrConflict
		l := podweft.NewLoop(d, podweft.LoopConfig{})
		run(t, l)
		err := l.Wait(t.Context(), l.Set(state{"a": "1", "b": "1", "c": "1"}))
		assert.EqualError(t, err, "create b=1: network is unreachable\ncreate c=1: another program's object is in the way")
		var op *podweft.OpError
		require.ErrorAs(t, err, &op)
		assert.ErrorIs(t, err, podweft.ErrConflict)

		held := l.Wait(t.Context(), l.Set(state{"a": "2", "b": "1", "c": "1"}))
		assert.Equal(t, []string{"a=2"}, d.took()[1].Tried)
		assert.EqualError(t, held, err.Error(), "an object that was held back is not in force, and why is still known")

		d.do(func() { clear(d.broken) })
		assert.NoError(t, l.Wait(t.Context(), l.Set(state{"a": "3"})))
	})
}

func TestLoopRunsOnceAtATime(t *testing.T) {
	tests := []struct {
		name string
		deaf error // of the second Run's Watch
	}{
		{"one after the other", nil},
		{"one after the other, which cannot listen", errUnreachable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newToy()
				l := podweft.NewLoop(d, podweft.LoopConfig{})
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- l.Run(ctx) }()
				require.NoError(t, l.Wait(ctx, l.Set(state{"a": "1"})))
				assert.ErrorIs(t, l.Run(ctx), podweft.ErrRunning)
				assert.True(t, l.Status().Listening)
				stop()
				assert.NoError(t, <-done)
				assert.False(t, l.Status().Listening)
				assert.Equal(t, state{"a": "1"}, d.kernel, "the kernel stays as it is")
				d.took()

				delete(d.kernel, "a")
				d.deaf = tt.deaf
				time.Sleep(time.Second)
				run(t, l)
				assert.Equal(t, []seen{{time.Second, false, []string{"a=1"}}}, d.took(),
					"a new Run looks at everything, unasked")
			})
		})
	}
}

func TestLoopRunEndsWithContext(t *testing.T) {
	tests := []struct {
		name   string
		toy    func(*toy)
		passes uint64 // that ended
	}{
		{"while Watch is not listening yet", func(d *toy) { d.listens = time.Hour }, 0},
		{"while a broken Watch waits for its next try", func(d *toy) { d.deaf = errUnreachable }, 1},
		{"during a pass", func(d *toy) { d.takes = time.Hour }, 0},
		{"in the rest after a pass", func(d *toy) { d.takes = 998 * ms }, 1},
		{"while it waits for a hint", func(d *toy) {}, 1},
		{"while an object is backed off from", func(d *toy) { d.broken["a"] = errUnreachable }, 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newToy()
				tt.toy(d)
				l := podweft.NewLoop(d, podweft.LoopConfig{})
				l.Set(state{"a": "1"})
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				assert.NoError(t, l.Run(ctx))
				assert.Equal(t, time.Second, time.Since(d.began), "Run ends when ctx does")
				assert.Equal(t, tt.passes, l.Status().Passes)
			})
		})
	}
}

func TestLoopStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newToy()
		d.takes = 3 * ms
		d.broken["b"], d.broken["c"] = errUnreachable, errUnreachable
		var reported []podweft.Status
		l := podweft.NewLoop(d, podweft.LoopConfig{OnPass: func(s podweft.Status) { reported = append(reported, s) }})
		run(t, l)
		time.Sleep(time.Second)
		assert.Error(t, l.Wait(t.Context(), l.Set(state{"a": "1", "b": "1", "c": "1"})))
		synctest.Wait()

		got := l.Status()
		assert.Equal(t, []podweft.Status{got}, reported, "OnPass gets the same")
		require.Len(t, got.Failing, 2)
		for i, id := range []string{"b", "c"} {
			failure := got.Failing[i]
			assert.Equal(t, id, failure.ID)
			assert.EqualError(t, failure.Err, "create "+id+"=1: network is unreachable")
			assert.Equal(t, 1, failure.Attempts)
			assert.Equal(t, d.began.Add(1003*ms), failure.Since)
			assert.WithinRange(t, failure.Next, failure.Since.Add(75*ms), failure.Since.Add(100*ms))
		}
		got.Failing = nil
		assert.EqualError(t, got.Last.Err,
			"create b=1: network is unreachable\ncreate c=1: network is unreachable")
		got.Last.Err = nil
		assert.Equal(t, podweft.Status{
			Generation: 1, Listening: true, Passes: 1,
			Last: podweft.PassResult{Generation: 1, Start: d.began.Add(time.Second), Duration: 3 * ms, Changes: 1},
		}, got)

		mine := l.Status()
		mine.Failing[0].ID = "mine"
		assert.Equal(t, "b", l.Status().Failing[0].ID, "a Status is a copy")
		kept := l.Status()
		d.do(func() { clear(d.broken) })
		time.Sleep(110 * ms)
		synctest.Wait()
		assert.Empty(t, l.Status().Failing)
		assert.Len(t, kept.Failing, 2, "a Status that was kept does not change")
	})
}

// TestLoopConverges moves the kernel, the Spec and every kind of failure at random and expects the Loop to have made the
// kernel agree soon after the last hint, whatever came before.
func TestLoopConverges(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) { converge(t, seed) })
	}
}

func converge(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	d := newToy()
	l := podweft.NewLoop(d, podweft.LoopConfig{})
	run(t, l)
	name := func() string { return strconv.Itoa(r.IntN(5)) }
	want := state{}
	for range 200 {
		synctest.Wait()
		switch r.IntN(8) {
		case 0, 1:
			want = with(want, name(), name())
			l.Set(want)
		case 2:
			d.do(func() { delete(d.kernel, name()) })
			d.hint()
		case 3:
			d.do(func() { d.kernel[name()] = name() })
			d.hint()
		case 4:
			d.do(func() { d.broken[name()] = errUnreachable })
		case 5:
			d.do(func() { clear(d.broken); d.dump = nil; d.deaf = nil })
		case 6:
			d.do(func() { d.dump = errUnreachable })
		case 7:
			if l.Status().Listening {
				d.do(func() { d.deaf = errUnreachable })
				d.breaks <- errUnreachable
			}
		}
		d.do(func() { d.takes = time.Duration(r.IntN(20)) * ms })
		time.Sleep(time.Duration(r.IntN(100)) * ms)
	}
	d.do(func() { clear(d.broken); d.dump = nil; d.deaf = nil })
	time.Sleep(31 * time.Second) // RetryMax and a pass
	synctest.Wait()
	assert.Equal(t, want, d.kernel, "seed %d", seed)
	s := l.Status()
	assert.NoError(t, s.Last.Err)
	assert.Empty(t, s.Failing)
	assert.True(t, s.Listening)
	assert.Equal(t, s.Generation, s.Last.Generation)
	plan, err := d.Plan(t.Context(), want)
	assert.NoError(t, err)
	assert.Empty(t, plan)
}

// TestLoopConcurrentUse is for the race detector: everything at once, in real time.
func TestLoopConcurrentUse(t *testing.T) {
	d := newToy()
	d.broken["0"] = errUnreachable
	l := podweft.NewLoop(d, podweft.LoopConfig{Coalesce: -1, RetryMin: time.Microsecond, Resync: time.Microsecond,
		OnPass: func(podweft.Status) {}})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	l.Wait(ctx, l.Set(state{}))

	var users sync.WaitGroup
	for i := range 4 {
		users.Go(func() {
			for j := range 100 {
				generation := l.Set(state{strconv.Itoa(i): strconv.Itoa(j)})
				d.hint()
				l.Wait(ctx, generation)
				assert.GreaterOrEqual(t, l.Status().Last.Generation, generation)
			}
		})
	}
	users.Wait()
	assert.NoError(t, l.Wait(ctx, l.Set(state{"1": "last"})))
	assert.EqualValues(t, 402, l.Status().Generation)
	stop()
	assert.NoError(t, <-done)
	assert.Equal(t, state{"1": "last"}, d.kernel)
}
