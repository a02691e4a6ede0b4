package podweft

import (
	"cmp"
	"errors"
	"slices"
	"time"
)

// failures are the objects that could not be put in force, keyed by ID and text: an object whose wanted text has changed
// is a new wish with a count of its own.
type failures map[wish]*failure

type wish struct{ id, text string }

type failure struct {
	backoff
	err   error
	since time.Time
	pass  uint64 // in which it was last seen
}

// held is the texts of the objects that one pass leaves alone, by ID. Drivers read it from any goroutine; it never
// changes.
type held map[string][]string

func (h held) has(obj Object) bool {
	texts, failed := h[obj.ID()]
	return failed && slices.Contains(texts, obj.String())
}

// held returns the objects whose next try has not come at now; nil when there are none.
func (f failures) held(now time.Time) held {
	var h held
	for w, failure := range f {
		if !now.Before(failure.from) {
			continue
		}
		if h == nil {
			h = make(held, len(f))
		}
		h[w.id] = append(h[w.id], w.text)
	}
	return h
}

// record takes the failed changes of a pass that began at start. It returns the error of every object that is not in
// force, and which of them are news.
func (f failures) record(plan Plan, pass uint64, start, now time.Time, cfg *LoopConfig) (all, news []error) {
	share := jitter() // one for all, else each object would come at a moment of its own and cost a pass
	for c, err := range plan.Failed() {
		w := wish{c.Object.ID(), c.Object.String()}
		known := f[w]
		if known == nil {
			known = &failure{err: err, since: now}
			f[w] = known
			news = append(news, err)
		} else if errors.Is(err, ErrHeld) {
			err = known.err // nobody tried: what it failed with still holds
		} else if err.Error() != known.err.Error() {
			news = append(news, err)
		}
		known.fail(start, now, share, cfg) // of no effect where the object was held
		known.err, known.pass = err, pass
		all = append(all, err)
	}
	return all, news
}

// forget drops what this pass did not see fail, and reports whether there was any.
func (f failures) forget(pass uint64) bool {
	before := len(f)
	for w, failure := range f {
		if failure.pass != pass {
			delete(f, w)
		}
	}
	return len(f) < before
}

// fresh counts the changes to objects that were not failing before.
func (f failures) fresh(plan Plan) int {
	if len(f) == 0 || len(plan) == 0 {
		return len(plan)
	}
	failing := make(map[string]bool, len(f))
	for w := range f {
		failing[w.id] = true
	}
	n := 0
	for _, c := range plan {
		if !failing[c.Object.ID()] {
			n++
		}
	}
	return n
}

func (f failures) list() []Failure {
	var list []Failure
	for w, known := range f {
		list = append(list, Failure{ID: w.id, Err: known.err, Attempts: known.attempts, Since: known.since, Next: known.next})
	}
	slices.SortFunc(list, func(a, b Failure) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), a.Since.Compare(b.Since))
	})
	return list
}
