package kube

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/podweft/podweft/subnet"
)

// pageSize is how many Nodes are asked for at a time. With their images and conditions they are some 10 to 20 KiB each, of which
// their leases, which are all that is kept, are some hundred bytes.
const pageSize = 250

// Watch implements [subnet.Store]. An API server that goes away does not end it: the watch goes on where it was when there is one
// again. When the API server's etcd was restored from a backup meanwhile, so that its revisions went back, or what was missed was
// compacted, the nodes are listed anew. What ends the watch is that then they cannot be.
//
// A restore is noticed when the stream of changes ends, as it does with its API server and every ten minutes at the latest, but not if
// revisions have overtaken the last snapshot's by then.
func (s *Store) Watch(ctx context.Context) iter.Seq2[*subnet.Snapshot, error] {
	return func(yield func(*subnet.Snapshot, error) bool) {
		if ctx.Err() != nil {
			return
		}
		if s.cfg.Network == nil {
			yield(nil, subnet.ErrNoNetwork)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		f := follower{Store: s, show: func(st *state) bool { return yield(st.snapshot(), nil) }}
		if err := f.run(ctx); !errors.Is(err, errEnough) && ctx.Err() == nil {
			yield(nil, err)
		}
	}
}

var (
	// errEnough: the user has had enough.
	errEnough = errors.New("watch was left")
	// errBack: the API server is at a revision before what it has shown.
	errBack = errors.New("the API server's revisions went back, as they do when its etcd is restored from a backup")
)

// list reads all nodes as they are now. What before has already stays the same, unless it is of a later revision.
func (s *Store) list(ctx context.Context, before *state) (*state, error) {
	st := &state{Store: s}
	for next := ""; ; {
		page, err := s.page(ctx, pageSize, next)
		if err != nil {
			return nil, fmt.Errorf("list nodes: %w", err)
		}
		for i := range page.Items {
			st.put(&page.Items[i])
		}
		if err := st.reached(page.ResourceVersion); err != nil { // all pages have the first one's
			return nil, err
		}
		if next = page.Continue; next == "" {
			break
		}
	}
	if before != nil && before.revision <= st.revision {
		for i, e := range st.entries {
			if at, found := before.find(e.node); found && before.entries[at].same(e) {
				st.entries[i] = before.entries[at]
			}
		}
	}
	return st, nil
}

func (s *Store) page(ctx context.Context, limit int, next string) (*corev1.NodeList, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	var page corev1.NodeList
	return &page, pageOf(s.client, "nodes", limit, next).Do(ctx).Into(&page)
}

// pageOf asks for some objects of a resource. No resourceVersion is asked for: that would be whatever the API server remembers, and may
// be older than our own last write.
func pageOf(client rest.Interface, resource string, limit int, next string) *rest.Request {
	request := client.Get().Resource(resource).Param("limit", strconv.Itoa(limit))
	if next != "" {
		request.Param("continue", next)
	}
	return request
}

// follower is one watch.
type follower struct {
	*Store
	show func(*state) bool // what it is to be shown; false: enough
	st   *state
	away absence
}

// run shows the present state and each change. Its error is never nil.
func (f *follower) run(ctx context.Context) error {
	if err := f.begin(ctx); err != nil {
		return err
	}
	next := f.stream
	for pause := patience(); ; next = f.resume {
		begun := time.Now()
		err := next(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errEnough):
			return err
		case isGone(err), errors.Is(err, errBack):
			f.cfg.Logger.Info("the nodes are listed anew", "err", err)
			if err := f.begin(ctx); err != nil {
				return err
			}
		case err != nil:
			f.away.lost(f.cfg.Logger, err)
		}
		if time.Since(begun) > time.Minute {
			pause = patience() // it had been well, and was to end some day
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause.Step()):
		}
	}
}

// patience is how long to wait from one try to the next: never much more than a second, for what is missed meanwhile is a peer
// that cannot be reached, and never as long as the next node.
func patience() *wait.Backoff {
	return &wait.Backoff{Duration: 50 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 100, Cap: time.Second}
}

// begin lists the nodes and shows them.
func (f *follower) begin(ctx context.Context) error {
	st, err := f.list(ctx, f.st)
	if err != nil {
		return err
	}
	f.st = st
	if !f.show(st) {
		return errEnough
	}
	return nil
}

// resume goes on where the last stream ended, if the API server has been there: from a revision that is still to come it accepts a
// watch as well, and is silent until then (cacheWatcher.process in k8s.io/apiserver; kubernetes/kubernetes#107457).
func (f *follower) resume(ctx context.Context) error {
	page, err := f.page(ctx, 1, "")
	if err != nil {
		return fmt.Errorf("look at what revision the nodes are: %w", err)
	}
	now := state{Store: f.Store}
	if err := now.reached(page.ResourceVersion); err != nil {
		return err
	}
	if now.revision < f.st.revision {
		return fmt.Errorf("%w: from %d to %d", errBack, f.st.revision, now.revision)
	}
	return f.stream(ctx)
}

// stream shows the changes that one request brings. It ends without an error when the API server has had enough of it.
func (f *follower) stream(ctx context.Context) error {
	stream, err := watchFrom(ctx, f.client, "nodes", f.st.version)
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	f.away.found(f.cfg.Logger)
	events, stop := gather(stream)
	defer stop()
	for {
		e, ok := <-events
		if !ok {
			return nil
		}
		changed, err := f.st.apply(e)
		for more := true; more && err == nil; { // what has come meanwhile shares a snapshot
			select {
			case e, ok := <-events:
				if more = ok; ok {
					var news bool
					news, err = f.st.apply(e)
					changed = changed || news
				}
			default:
				more = false
			}
		}
		if changed && !f.show(f.st) {
			return errEnough
		}
		if err != nil {
			return fmt.Errorf("watch nodes: %w", err)
		}
	}
}

// watchFrom asks for what comes after a version of a resource.
func watchFrom(ctx context.Context, client rest.Interface, resource, version string) (watch.Interface, error) {
	// Nodes that were started together must not come again together.
	until := 5*time.Minute + rand.N(5*time.Minute)
	return client.Get().Resource(resource).
		Param("watch", "true").Param("allowWatchBookmarks", "true").Param("resourceVersion", version).
		Param("timeoutSeconds", strconv.Itoa(int(until.Seconds()))).Watch(ctx)
}

// gather reads ahead, so that what comes while a snapshot is being looked at can be one snapshot together. stop ends the stream and
// waits until nothing of it is left.
func gather(stream watch.Interface) (_ <-chan watch.Event, stop func()) {
	events := make(chan watch.Event, 1024)
	quit := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(events)
		for e := range stream.ResultChan() {
			select {
			case events <- e:
			case <-quit:
				return
			}
		}
	})
	return events, func() {
		close(quit)
		stream.Stop()
		reader.Wait()
	}
}

// absence is since when the API server does not answer; zero: it does.
type absence struct{ since time.Time }

// lost notes that the API server could not be asked, and says so the first time.
func (a *absence) lost(log *slog.Logger, err error) {
	if a.since.IsZero() {
		a.since = time.Now()
		log.Warn("the API server does not answer; what was read last stays in force", "err", err)
	}
}

func (a *absence) found(log *slog.Logger) {
	if !a.since.IsZero() {
		log.Info("the API server answers again", "away", time.Since(a.since).Round(time.Second))
		a.since = time.Time{}
	}
}
