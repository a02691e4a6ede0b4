package gate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/node/local"
	"github.com/podweft/podweft/policy"
)

// Config says whose pods a Gate is for, and who enforces their policies. All of it is required.
type Config[S any] struct {
	// Node is the name of this node, as pods have it.
	Node string
	// Loop applies what Spec makes of a Ruleset. Somebody else runs it.
	Loop *podweft.Loop[S]
	Spec func(rules *policy.Ruleset) S
}

// Gate knows the cluster, and the addresses of this node's pods before the cluster does. It is safe for concurrent use.
type Gate[S any] struct {
	cfg Config[S]

	mu         sync.Mutex
	compiler   *policy.Compiler
	rules      *policy.Ruleset // what the compiler said last
	generation uint64          // of the loop's, with all that is known
	news       chan struct{}   // closed by the next Update
	book       book
}

// New returns a Gate that knows of nobody.
func New[S any](cfg Config[S]) (*Gate[S], error) {
	var errs []error
	missing := func(field string) {
		errs = append(errs, &podweft.FieldError{Field: field, Problem: "is missing"})
	}
	if cfg.Node == "" {
		missing("Node")
	}
	if cfg.Loop == nil {
		missing("Loop")
	}
	if cfg.Spec == nil {
		missing("Spec")
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Gate[S]{
		cfg: cfg, compiler: policy.NewCompiler(cfg.Node), book: newBook(cfg.Node), news: make(chan struct{}),
	}, nil
}

// Update tells of objects that have come or changed, and of those that have gone, as [policy.Compiler.Update] has it, and has the
// loop apply what follows. It does not wait for that: changes that come in the meantime are applied together.
//
// The error is about objects that make no sense. Everything else is in force regardless.
func (g *Gate[S]) Update(put policy.Model, gone ...policy.ID) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, id := range gone {
		g.book.gone(id)
	}
	put.Pods = slices.Clone(put.Pods)
	for i, p := range put.Pods {
		g.book.put(p)
		put.Pods[i] = g.book.here(p)
	}
	err := g.compile(put, gone...)
	close(g.news)
	g.news = make(chan struct{})
	return err
}

func (g *Gate[S]) compile(put policy.Model, gone ...policy.ID) error {
	rules, err := g.compiler.Update(put, gone...)
	g.rules, g.generation = rules, g.cfg.Loop.Set(g.cfg.Spec(rules))
	return err
}

// again compiles pods whose addresses have become others.
func (g *Gate[S]) again(ids []policy.ID) error {
	var put policy.Model
	for _, id := range ids {
		if p, known := g.book.pods[id]; known {
			put.Pods = append(put.Pods, g.book.here(p))
		}
	}
	if len(put.Pods) == 0 {
		return nil
	}
	return g.compile(put)
}

// Attach returns nil when the rules of the attachment's pod are in force at its addresses. It waits for the pod to be known, and for
// the kernel, as long as ctx allows; then, and when the kernel refuses or another pod has one of the addresses, the error is
// [local.ErrTryAgain]. An attachment of which nobody has said whose pod it is concerns no policy.
func (g *Gate[S]) Attach(ctx context.Context, rec local.Record) error {
	if rec.Pod.Name == "" || len(rec.Addresses) == 0 {
		return nil
	}
	id := podOf(rec)
	generation, err := g.admit(ctx, rec, id)
	if err == nil {
		err = g.cfg.Loop.Wait(ctx, generation)
	}
	if err != nil {
		return fmt.Errorf("%w: policies of %s are not in force: %w", local.ErrTryAgain, id, err)
	}
	return nil
}

var (
	errUnknown = errors.New("the cluster has not told us of it yet")
	errUnruled = errors.New("no rules have it at all of its addresses")
)

// admit gives the pod its addresses as soon as it is known to be here, and returns the generation that has them.
func (g *Gate[S]) admit(ctx context.Context, rec local.Record, id policy.ID) (uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	wrong := g.again(g.book.give(id, rec))
	for {
		if p, known := g.book.pods[id]; known && p.Phase == policy.Running && !g.book.elsewhere(p) {
			if !p.HostNetwork && !g.judged(id, rec) {
				return 0, errors.Join(errUnruled, wrong)
			}
			return g.generation, nil
		}
		news := g.news
		g.mu.Unlock()
		select {
		case <-news:
			g.mu.Lock()
		case <-ctx.Done():
			g.mu.Lock()
			return 0, fmt.Errorf("%w: %w", errUnknown, ctx.Err())
		}
	}
}

// judged reports whether the rules have the pod at all addresses of its attachment. They do not where another's has one of them too,
// and where one makes no sense.
func (g *Gate[S]) judged(id policy.ID, rec local.Record) bool {
	found := 0
	for e := range g.rules.Endpoints.All() {
		if e.Pod.ID() == id && slices.ContainsFunc(rec.Addresses, func(p netip.Prefix) bool { return p.Addr() == e.Addr }) {
			found++
		}
	}
	return found == len(addressesOf(rec))
}

// Restore tells of the attachments that were there before, as an agent finds them in its [local.Records] when it starts. It is to
// come before the first Update, so that no live pod is without its rules for a moment.
func (g *Gate[S]) Restore(records ...local.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, rec := range records {
		if rec.Pod.Name != "" {
			g.book.give(podOf(rec), rec)
		}
	}
}

// Detach forgets attachments. A pod that has none any more has no addresses, whatever the cluster says.
func (g *Gate[S]) Detach(keys ...local.Key) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_ = g.again(g.book.take(keys)) // Update has reported what is wrong with them
}

func podOf(rec local.Record) policy.ID {
	return policy.Pod{Namespace: rec.Pod.Namespace, Name: rec.Pod.Name}.ID()
}
