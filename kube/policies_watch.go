package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/podweft/podweft/policy"
)

// askAgain is when a cluster is asked again for a kind that it does not have: somebody may install it.
const askAgain = time.Minute

// kindFollower is a watch of one kind.
type kindFollower struct {
	*kind
	cfg     PoliciesConfig
	box     *box
	known   map[policy.ID]known
	version string // the API server's name for what is known; empty: it does not have the kind
	away    absence
}

// known is what was told of an object last.
type known struct {
	object  modelled // nil: nobody can tell what it is
	problem string
}

// list reads all objects and tells what has changed since the last list. The rest of each page is forgotten with it.
func (f *kindFollower) list(ctx context.Context) error {
	before := f.known
	f.known = make(map[policy.ID]known, len(before))
	version, err := f.pages(ctx, before)
	if err != nil {
		maps.Copy(before, f.known)
		f.known = before // with what has been told already
		return err
	}
	for id := range before {
		if _, there := f.known[id]; !there {
			f.box.gone(id)
		}
	}
	f.version = version
	return nil
}

func (f *kindFollower) pages(ctx context.Context, before map[policy.ID]known) (version string, err error) {
	for next := ""; ; {
		page, err := f.ask(ctx, pageSize, next)
		if apierrors.IsNotFound(err) && f.optional {
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("list %s: %w", f.resource, err)
		}
		about, err := meta.ListAccessor(page)
		if err != nil {
			return "", err
		}
		if err := meta.EachListItem(page, func(o runtime.Object) error { return f.put(o, before) }); err != nil {
			return "", err
		}
		version = about.GetResourceVersion() // all pages have the first one's
		if next = about.GetContinue(); next == "" {
			return version, nil
		}
	}
}

func (f *kindFollower) ask(ctx context.Context, limit int, next string) (runtime.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
	defer cancel()
	page := f.page()
	return page, pageOf(f.client, f.resource, limit, next).Do(ctx).Into(page)
}

// put tells of an object if it says something else than before.
func (f *kindFollower) put(o runtime.Object, before map[policy.ID]known) error {
	id, object, problem := f.model(o)
	if id == (policy.ID{}) {
		return problem
	}
	now := known{object: object}
	if problem != nil {
		now.problem = problem.Error()
	}
	was, there := before[id]
	if there && was.problem == now.problem && reflect.DeepEqual(was.object, now.object) {
		f.known[id] = was // one copy
		return nil
	}
	f.known[id] = now
	f.box.put(id, object, problem)
	return nil
}

// run follows the changes until ctx ends.
func (f *kindFollower) run(ctx context.Context) {
	for pause := patience(); ; {
		begun := time.Now()
		err := f.follow(ctx)
		if isGone(err) || errors.Is(err, errBack) || apierrors.IsNotFound(err) {
			f.cfg.Logger.Info("objects are listed anew", "resource", f.resource, "err", err)
			err = f.list(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			f.away.lost(f.cfg.Logger, err)
		}
		if time.Since(begun) > time.Minute {
			pause = patience() // it had been well, and was to end some day
		}
		wait := pause.Step()
		if f.version == "" && err == nil {
			wait = askAgain
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// follow goes on from the version that is known, if the API server has been there: see follower.resume.
func (f *kindFollower) follow(ctx context.Context) error {
	if f.version == "" {
		return f.list(ctx)
	}
	page, err := f.ask(ctx, 1, "")
	if err != nil {
		return err
	}
	about, err := meta.ListAccessor(page)
	if err != nil {
		return err
	}
	now, err := strconv.ParseUint(about.GetResourceVersion(), 10, 64)
	if err != nil {
		return fmt.Errorf("the API server's resourceVersion %s is no number", shown(about.GetResourceVersion()))
	}
	if then, err := strconv.ParseUint(f.version, 10, 64); err != nil || now < then {
		return fmt.Errorf("%w: from %s to %d", errBack, f.version, now)
	}
	stream, err := watchFrom(ctx, f.client, f.resource, f.version)
	if err != nil {
		return fmt.Errorf("watch %s: %w", f.resource, err)
	}
	defer stream.Stop()
	f.away.found(f.cfg.Logger)
	for e := range stream.ResultChan() {
		if err := f.apply(e); err != nil {
			return fmt.Errorf("watch %s: %w", f.resource, err)
		}
	}
	return nil
}

// apply notes an event.
func (f *kindFollower) apply(e watch.Event) error {
	if e.Type == watch.Error {
		return apierrors.FromObject(e.Object)
	}
	o, err := meta.Accessor(e.Object)
	if err != nil {
		return err
	}
	switch e.Type {
	case watch.Added, watch.Modified:
		err = f.put(e.Object, f.known)
	case watch.Deleted:
		var id policy.ID
		if id, _, err = f.model(e.Object); id != (policy.ID{}) { // what nobody can read of it is of no concern any more
			err = nil
			delete(f.known, id)
			f.box.gone(id)
		}
	}
	f.version = o.GetResourceVersion()
	return err
}

// box holds what has changed until somebody takes it, of each object the last.
type box struct {
	news chan struct{} // size 1: there is something

	mu      sync.Mutex
	changed map[policy.ID]fate
}

// fate is what became of an object.
type fate struct {
	object  modelled // nil: it is gone, or nobody can tell what it is
	problem error
}

func newBox() *box { return &box{news: make(chan struct{}, 1), changed: map[policy.ID]fate{}} }

func (b *box) put(id policy.ID, object modelled, problem error) {
	b.mu.Lock()
	b.changed[id] = fate{object, problem}
	b.mu.Unlock()
	select {
	case b.news <- struct{}{}:
	default:
	}
}

func (b *box) gone(id policy.ID) { b.put(id, nil, nil) }

// empty returns what there is, and leaves nothing.
func (b *box) empty() map[policy.ID]fate {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := b.changed
	b.changed = map[policy.ID]fate{}
	return changed
}

// take returns what there is, ordered by kind and name, and empties the box.
func (b *box) take() (c Changes) {
	changed := b.empty()
	for _, id := range slices.SortedFunc(maps.Keys(changed), compareIDs) {
		switch o := changed[id].object.(type) {
		case nil:
			c.Gone = append(c.Gone, id)
		case policy.Node:
			c.Put.Nodes = append(c.Put.Nodes, o)
		case policy.Namespace:
			c.Put.Namespaces = append(c.Put.Namespaces, o)
		case policy.Pod:
			c.Put.Pods = append(c.Put.Pods, o)
		case policy.Policy:
			c.Put.Policies = append(c.Put.Policies, o)
		case policy.ClusterPolicy:
			c.Put.ClusterPolicies = append(c.Put.ClusterPolicies, o)
		}
		if problem := changed[id].problem; problem != nil {
			c.Problems = append(c.Problems, &Problem{id, problem})
		}
	}
	return c
}

func compareIDs(a, b policy.ID) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
