package udp

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// worker moves packets both ways between one TUN queue and the sockets that go with it, in one goroutine. What a packet causes as it
// is written, such as the answer to a ping or TCP's acknowledgement, is in the queue when the write returns: it goes out without
// anybody being woken.
type worker struct {
	pumps []pump
	// wait returns when there may be something to do, or with errInterrupted.
	wait func() error
	// interrupted reports whether the worker is to end.
	interrupted func() bool
}

// pump is one way.
type pump interface {
	// pump moves what is there, some at a time, and reports whether there was anything.
	pump() (worked bool, err error)
}

// linger is for how long a worker that has just had something to do looks for more before it sleeps. To be woken takes about as
// long, and what comes in answer to a packet comes sooner as a rule. Whoever else wants the processor meanwhile has it: where it is
// another worker, looking without yielding takes two to three times as long for a round trip.
const linger = 100 * time.Microsecond

// run works until it is interrupted, or a port fails.
func (w *worker) run() error {
	rested, since := true, time.Time{}
	for {
		worked, err := w.round()
		if err != nil {
			return err
		}
		if w.interrupted() {
			return errInterrupted
		}
		switch {
		case worked:
			rested = false
			continue
		case !rested: // for the first time since
			rested, since = true, time.Now()
		}
		if time.Since(since) < linger {
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			continue
		}
		if err := w.wait(); err != nil {
			return err
		}
	}
}

func (w *worker) round() (worked bool, err error) {
	for _, p := range w.pumps {
		did, failure := p.pump()
		worked = worked || did
		err = errors.Join(err, failure)
	}
	return worked, err
}
