package podweft

import "time"

// Status is what a [Loop] knows at one moment. It is a copy, safe to keep.
type Status struct {
	Generation uint64 // of the latest Spec; 0 before the first Set
	Listening  bool   // the driver's Watch tells us about the kernel
	WatchErr   error  // why Watch last broke; nil once it listens again

	Passes uint64     // that have ended
	Last   PassResult // the latest of them; zero before the first

	// Drift counts the changes that were found necessary although every object of the same Spec had once been in
	// force: somebody else moved the kernel. An object that then cannot be repaired counts once.
	Drift uint64

	Failing []Failure // the objects that are not in force, by ID
}

// PassResult is how one pass ended.
type PassResult struct {
	Generation uint64 // of the Spec that was applied
	Start      time.Time
	Duration   time.Duration
	Changes    int // made; those that failed are not among them
	// Err is nil when every object was in force at the end of the pass. Otherwise it joins the error of each that was
	// not (of one that was held back, the error of its last try) and those that are tied to no object.
	Err error
}

// Failure is an object that is not in force because it could not be put there.
type Failure struct {
	ID       string // of the object
	Err      error  // of the last try
	Attempts int
	Since    time.Time // of the first try that failed
	Next     time.Time // by when it is tried again
}
