package policy

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// many is from how many objects on others are called to help: a change of a few is over before they come.
const many = 256

// result is what has been made of an object, and what is wrong with it.
type result[T any] struct {
	is   *T
	errs []error
}

// toEach applies do, which looks at nothing else, to every item of a list.
func toEach[In, Out any](list []In, do func(*In) (*Out, []error)) []result[Out] {
	out := make([]result[Out], len(list))
	const few = 64 // taken at once
	var taken atomic.Int64
	work := func() {
		for {
			to := int(taken.Add(few))
			from := to - few
			if from >= len(list) {
				return
			}
			for i := from; i < min(to, len(list)); i++ {
				out[i].is, out[i].errs = do(&list[i])
			}
		}
	}
	workers := make([]func(), max(1, min(runtime.GOMAXPROCS(0), len(list)/many)))
	for i := range workers {
		workers[i] = work
	}
	sideBySide(workers...)
	return out
}

// sideBySide calls all of these at once, and returns when they have.
func sideBySide(do ...func()) {
	var others sync.WaitGroup
	for _, f := range do[1:] {
		others.Go(f)
	}
	do[0]()
	others.Wait()
}
