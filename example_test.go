package podweft_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/podweft/podweft"
)

// lamps is a Driver whose kernel is a row of lamps: a Spec names those that should burn.
type lamps struct {
	mu      sync.Mutex
	burning map[string]bool
	changed func()
}

func (l *lamps) Plan(_ context.Context, spec []string) (podweft.Plan, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.diff(spec), nil
}

func (l *lamps) diff(spec []string) (plan podweft.Plan) {
	for _, name := range slices.Sorted(maps.Keys(l.burning)) {
		if !slices.Contains(spec, name) {
			plan = append(plan, podweft.Change{Op: podweft.Delete, Object: podweft.Named(name)})
		}
	}
	for _, name := range spec {
		if !l.burning[name] {
			plan = append(plan, podweft.Change{Op: podweft.Create, Object: podweft.Named(name)})
		}
	}
	return plan
}

func (l *lamps) Apply(ctx context.Context, spec []string) (podweft.Plan, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	plan := l.diff(spec)
	for i, c := range plan {
		switch {
		case podweft.PassOf(ctx).Held(c.Object):
			plan[i].Err = podweft.ErrHeld
		case c.Op == podweft.Delete:
			delete(l.burning, c.Object.ID())
		default:
			l.burning[c.Object.ID()] = true
		}
	}
	return plan, plan.Err()
}

func (l *lamps) Watch(ctx context.Context, changed func()) error {
	l.mu.Lock()
	l.changed = changed
	l.mu.Unlock()
	changed() // listening
	<-ctx.Done()
	return nil
}

// blow puts a lamp out behind the Loop's back.
func (l *lamps) blow(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.burning, name)
	l.changed()
}

// A Loop needs a Driver and a Spec. It applies the Spec, and again whenever the Driver hints that something has moved.
func ExampleLoop() {
	driver := &lamps{burning: map[string]bool{"lamp 3": true}}
	spec := []string{"lamp 1", "lamp 2"}

	plan, _ := driver.Plan(context.Background(), spec) // a dry run
	fmt.Print(plan)

	passed := make(chan podweft.Status, 10)
	loop := podweft.NewLoop(driver, podweft.LoopConfig{OnPass: func(s podweft.Status) { passed <- s }})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- loop.Run(ctx) }()

	fmt.Println("in force:", loop.Wait(ctx, loop.Set(spec)) == nil, "changes:", (<-passed).Last.Changes)

	driver.blow("lamp 1")
	s := <-passed
	fmt.Println("in force:", s.Last.Err == nil, "changes:", s.Last.Changes, "drift:", s.Drift)

	stop()
	fmt.Println("run:", <-done)
	// Output:
	// - lamp 3
	// + lamp 1
	// + lamp 2
	// in force: true changes: 3
	// in force: true changes: 1 drift: 1
	// run: <nil>
}

// A Plan is a dry run that a person can read.
func ExamplePlan() {
	plan := podweft.Plan{
		{Op: podweft.Delete, Object: podweft.Named("route 10.244.7.0/24 dev flannel.1"), Note: "its lease is gone"},
		{Op: podweft.Create, Object: podweft.Named("route 10.244.2.0/24 dev flannel.1")},
		{Op: podweft.Create, Object: podweft.Named("route 10.244.3.0/24 dev flannel.1"), Err: podweft.ErrConflict},
	}
	fmt.Print(plan)
	// Output:
	// - route 10.244.7.0/24 dev flannel.1  # its lease is gone
	// + route 10.244.2.0/24 dev flannel.1
	// + route 10.244.3.0/24 dev flannel.1  ! another program's object is in the way
}
