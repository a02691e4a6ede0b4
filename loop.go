package podweft

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrRunning is what Run returns while another Run of the same [Loop] has not.
var ErrRunning = errors.New("the loop is already running")

// A Loop keeps the kernel in agreement with the latest Spec it was given: it lets the driver Apply it when it is set,
// whenever the driver's Watch hints that the kernel may have moved, when something that failed is due again, and once in
// a while in any case. One such Apply is a pass. All waiting and retrying is done here, so that drivers need no clock.
//
// An object that fails is backed off from alone: a hint always runs a pass, and that pass leaves out only the objects
// whose next try has not come (see [Pass.Held]). One peer that cannot be reached delays nobody.
//
// A Loop is safe for concurrent use. It does not catch a driver's panic.
type Loop[S any] struct {
	driver  Driver[S]
	cfg     LoopConfig
	wake    chan struct{} // size 1: look again
	running atomic.Bool

	// Run's own.
	rest   time.Time // no pass before this
	retry  backoff   // of passes that failed as a whole
	resync time.Time // when everything must be read again; zero is never
	seen   uint64    // the watch (see watches) under which the last pass left the driver with a true picture; 0 is none

	mu       sync.Mutex
	spec     S
	status   Status // but for Failing, which is in failures
	failures failures
	watches  uint64        // that have listened so far, over all Runs
	settled  uint64        // the latest generation of which every object has been in force
	ended    chan struct{} // closed and replaced at the end of each pass
}

// NewLoop returns a Loop over d. It does nothing until it is Run.
func NewLoop[S any](d Driver[S], cfg LoopConfig) *Loop[S] {
	return &Loop[S]{
		driver:   d,
		cfg:      cfg.withDefaults(),
		wake:     make(chan struct{}, 1),
		failures: failures{},
		ended:    make(chan struct{}),
	}
}

// Set makes spec the state to keep and returns its generation: 1 for the first, then counting up. It never waits for the
// kernel; a Spec that is overtaken by the next before a pass began is never applied. The caller must not change what spec
// refers to afterwards.
func (l *Loop[S]) Set(spec S) (generation uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spec = spec
	l.status.Generation++
	l.look()
	return l.status.Generation
}

// look asks for a pass.
func (l *Loop[S]) look() {
	select {
	case l.wake <- struct{}{}:
	default: // somebody has asked already, and the pass has not begun
	}
}

// Run works until ctx ends and then returns nil; nothing it started outlives it, and the kernel stays as it is. A second
// Run at the same time is [ErrRunning]; one after the other is fine.
//
// It listens before it reads: the first pass begins when the driver's Watch listens, or has failed to. A Watch that
// breaks is started again; until then passes go on without its hints.
func (l *Loop[S]) Run(ctx context.Context) error {
	if !l.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer l.running.Store(false)

	var watch sync.WaitGroup
	defer watch.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop() // for the panic of a driver; it must not hang in Wait

	tried := make(chan struct{})
	watch.Go(func() { l.watch(ctx, sync.OnceFunc(func() { close(tried) })) })
	<-tried

	l.look() // whatever an earlier Run has done
	for l.pause(ctx) {
		l.pass(ctx)
	}
	return nil
}

// pause waits until there is a reason for a pass and the rest after the last one is over. It is false when ctx has ended.
func (l *Loop[S]) pause(ctx context.Context) bool {
	return sleep(ctx, l.wake, l.due()) && (!time.Now().Before(l.rest) || sleep(ctx, nil, l.rest))
}

// sleep waits for wake, for t (the zero t never comes) or for the end of ctx, and reports whether ctx goes on.
func sleep(ctx context.Context, wake <-chan struct{}, t time.Time) bool {
	var timer <-chan time.Time
	if !t.IsZero() {
		timer = time.After(time.Until(t))
	}
	select {
	case <-wake:
	case <-timer:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// due is when the loop has to look without being asked to; zero is never.
func (l *Loop[S]) due() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	due := l.resync
	sooner := func(b backoff) {
		if b.attempts > 0 && (due.IsZero() || b.next.Before(due)) {
			due = b.next
		}
	}
	sooner(l.retry)
	for _, f := range l.failures {
		sooner(f.backoff)
	}
	return due
}

// pass lets the driver apply the latest Spec, if there is one.
func (l *Loop[S]) pass(ctx context.Context) {
	p, ok := l.begin()
	if !ok {
		return
	}
	plan, err := l.driver.Apply(withPass(ctx, Pass{held: p.held, watching: p.watching}), p.spec)
	if err != nil && ctx.Err() != nil {
		return // we broke it off ourselves
	}
	l.end(p, plan, err)
}

// pass is what holds for one pass from its beginning.
type pass[S any] struct {
	spec       S
	generation uint64
	start      time.Time
	watch      uint64 // that listens; 0 is none
	watching   bool
	held       held
}

func (l *Loop[S]) begin() (p pass[S], ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Drained before the Spec and the kernel are read, under the lock that Set holds: whatever comes from now on leaves a
	// new token and gets a pass of its own; whatever came before is in what this pass reads.
	select {
	case <-l.wake:
	default:
	}
	if l.status.Generation == 0 {
		return p, false
	}
	p = pass[S]{spec: l.spec, generation: l.status.Generation, start: time.Now()}
	p.held = l.failures.held(p.start)
	if l.status.Listening {
		p.watch = l.watches
	}
	periodic := !l.resync.IsZero() && !p.start.Before(l.resync)
	p.watching = p.watch != 0 && p.watch == l.seen && !periodic
	return p, true
}

func (l *Loop[S]) end(p pass[S], plan Plan, err error) {
	now := time.Now()
	whole := untied(err, plan)
	l.schedule(p, now, len(whole) > 0)

	l.mu.Lock()
	l.status.Passes++
	if p.generation == l.settled {
		l.status.Drift += uint64(l.failures.fresh(plan))
	}
	errs, news := l.failures.record(plan, l.status.Passes, p.start, now, &l.cfg)
	recovered := len(whole) == 0 && l.failures.forget(l.status.Passes) // else the plan may not show every object
	l.status.Last = PassResult{
		Generation: p.generation,
		Start:      p.start,
		Duration:   now.Sub(p.start),
		Changes:    len(plan) - len(errs),
		Err:        joinErrors(slices.Concat(errs, whole)),
	}
	if l.status.Last.Err == nil {
		l.settled = p.generation
	}
	failing := len(l.failures)
	close(l.ended)
	l.ended = make(chan struct{})
	l.mu.Unlock()

	switch {
	case len(whole) > 0:
		l.cfg.Logger.Warn("pass failed", "err", joinErrors(whole), "failing", failing)
	case len(news) > 0:
		l.cfg.Logger.Warn("objects not in force", "err", news[0], "new", len(news), "failing", failing)
	case recovered:
		l.cfg.Logger.Info("objects in force again", "failing", failing)
	}
	if l.cfg.OnPass != nil {
		l.cfg.OnPass(l.Status())
	}
}

// schedule says what the next pass may rely on and when it may or must run.
func (l *Loop[S]) schedule(p pass[S], now time.Time, failed bool) {
	l.rest = now.Add(l.cfg.Coalesce)
	if !p.watching && l.cfg.Resync > 0 {
		l.resync = now.Add(shorten(l.cfg.Resync, jitter()))
	}
	if !failed {
		l.seen, l.retry = p.watch, backoff{}
		return
	}
	l.seen = 0
	l.retry.fail(p.start, now, jitter(), &l.cfg)
	// What breaks a whole pass, such as a dump that a busy kernel interrupts, is not cured by hints that come in a storm.
	if soonest := now.Add(shorten(l.cfg.RetryMin, 1)); l.rest.Before(soonest) {
		l.rest = soonest
	}
}

// Wait returns when a pass that applied this generation or a later one has ended: nil if every object was in force then,
// else what the latest pass reported, so that the caller can decide whether the rest is good enough. It returns
// ctx.Err() if ctx ends first; while nobody Runs the Loop, only that can end it.
func (l *Loop[S]) Wait(ctx context.Context, generation uint64) error {
	for {
		l.mu.Lock()
		last, ended := l.status.Last, l.ended
		l.mu.Unlock()
		if last.Generation >= generation {
			return last.Err
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Status returns what the loop knows now.
func (l *Loop[S]) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.status
	s.Failing = l.failures.list()
	return s
}
