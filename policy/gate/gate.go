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
	pods       map[policy.ID]policy.Pod // as the cluster has them
	given      map[policy.ID]map[local.Key][]netip.Addr
	ended      map[policy.ID]bool // pods whose last attachment is gone, though the cluster still has them
	generation uint64             // of the loop's, with all that is known
	news       chan struct{}      // closed by the next Update
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
		cfg: cfg, compiler: policy.NewCompiler(cfg.Node),
		pods: map[policy.ID]policy.Pod{}, given: map[policy.ID]map[local.Key][]netip.Addr{}, ended: map[policy.ID]bool{},
		news: make(chan struct{}),
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
		delete(g.pods, id)
		delete(g.ended, id)
	}
	put.Pods = slices.Clone(put.Pods)
	for i, p := range put.Pods {
		g.pods[p.ID()] = p
		put.Pods[i] = g.here(p)
	}
	err := g.compile(put, gone...)
	close(g.news)
	g.news = make(chan struct{})
	return err
}

// here is the pod with the addresses that we know it to have.
func (g *Gate[S]) here(p policy.Pod) policy.Pod {
	id := p.ID()
	switch {
	case len(g.given[id]) > 0:
		p.Node, p.Addresses = g.cfg.Node, nil
		for _, addrs := range g.given[id] {
			p.Addresses = append(p.Addresses, addrs...)
		}
		slices.SortFunc(p.Addresses, netip.Addr.Compare)
		p.Addresses = slices.Compact(p.Addresses)
	case g.ended[id]:
		p.Addresses = nil // they may be another's already
	}
	return p
}

func (g *Gate[S]) compile(put policy.Model, gone ...policy.ID) error {
	rules, err := g.compiler.Update(put, gone...)
	g.generation = g.cfg.Loop.Set(g.cfg.Spec(rules))
	return err
}

// Attach returns nil when the rules of the attachment's pod are in force at its addresses. It waits for the pod to be known, and for
// the kernel, as long as ctx allows; then, and when the kernel refuses, the error is [local.ErrTryAgain]. An attachment of which
// nobody has said whose pod it is concerns no policy.
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

var errUnknown = errors.New("the cluster has not told us of it yet")

// admit gives the pod its addresses as soon as it is known, and returns the generation that has them.
func (g *Gate[S]) admit(ctx context.Context, rec local.Record, id policy.ID) (uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	fresh := g.give(rec, id)
	for {
		if p, known := g.pods[id]; known && p.Phase == policy.Running {
			if !fresh { // Update has done it, or an Attach before
				return g.generation, nil
			}
			_ = g.compile(policy.Model{Pods: []policy.Pod{g.here(p)}}) // Update has reported what is wrong with it
			return g.generation, nil
		}
		fresh = false
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

// give notes the attachment's addresses, and reports whether that is news.
func (g *Gate[S]) give(rec local.Record, id policy.ID) bool {
	addrs := make([]netip.Addr, len(rec.Addresses))
	for i, p := range rec.Addresses {
		addrs[i] = p.Addr()
	}
	if slices.Equal(g.given[id][rec.Key()], addrs) {
		return false
	}
	if g.given[id] == nil {
		g.given[id] = map[local.Key][]netip.Addr{}
	}
	g.given[id][rec.Key()] = addrs
	delete(g.ended, id)
	return true
}

// Restore tells of the attachments that were there before, as an agent finds them in its [local.Records] when it starts. It is to
// come before the first Update, so that no live pod is without its rules for a moment.
func (g *Gate[S]) Restore(records ...local.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, rec := range records {
		if rec.Pod.Name != "" {
			g.give(rec, podOf(rec))
		}
	}
}

// Detach forgets attachments. A pod that has none any more has no addresses, whatever the cluster says.
func (g *Gate[S]) Detach(keys ...local.Key) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var put policy.Model
	for id, of := range g.given {
		before := len(of)
		for _, key := range keys {
			delete(of, key)
		}
		if len(of) == before {
			continue
		}
		if len(of) == 0 {
			delete(g.given, id)
		}
		if p, known := g.pods[id]; known {
			g.ended[id] = len(of) == 0
			put.Pods = append(put.Pods, g.here(p))
		}
	}
	if len(put.Pods) > 0 {
		_ = g.compile(put)
	}
}

func podOf(rec local.Record) policy.ID {
	return policy.Pod{Namespace: rec.Pod.Namespace, Name: rec.Pod.Name}.ID()
}
