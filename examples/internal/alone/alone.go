// Package alone keeps a program to one P, the scheduler's permission to run Go code. Importing it does so: for a program that
// lives a few milliseconds and does one thing after the other, whose further threads only wake each other.
//
// It imports nothing, so that it is initialised among the first: by then no P has anything cached. Later, in main, the caches of
// the one that goes are handed back and made anew, at the cost of some 90 page faults.
package alone

import "runtime"

var _ = runtime.GOMAXPROCS(1)
