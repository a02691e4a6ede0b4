package bgp

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// ErrRunning: the Speaker runs already, or has run. It runs once.
var ErrRunning = errors.New("speaker runs already")

// Speaker speaks BGP for one node. It is safe for concurrent use.
type Speaker struct {
	cfg  Config
	wake chan struct{} // look again

	mu       sync.Mutex
	started  bool
	engine   *engine // nil unless Run has it
	peers    []Peer
	ads      []Advertisement
	told     bool // what to advertise, if only nothing
	heard    map[heard]bool
	why      map[netip.Addr]string // why the session went down last
	snapshot *Snapshot             // nil before the first
	next     chan struct{}         // closed when there is a newer snapshot
	err      error                 // what the engine refuses just now
}

// heard says that a peer has told all it knows of one family.
type heard struct {
	peer netip.Addr
	v4   bool
}

const (
	coalesce   = 5 * time.Millisecond   // between two looks at what was learned
	retry      = time.Second            // after the engine has refused something
	noteEvery  = 500 * time.Millisecond // state file
	lastEvents = 50 * time.Millisecond  // for the engine to tell of the sessions that it ends
	neverAgain = time.Duration(1<<63 - 1)
)

// New makes a Speaker. It opens nothing before Run. The error joins a [*podweft.FieldError] for each field that is wrong.
func New(cfg Config) (*Speaker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Speaker{
		cfg: cfg.withDefaults(), wake: make(chan struct{}, 1), heard: map[heard]bool{}, why: map[netip.Addr]string{}, next: make(chan struct{}),
	}, nil
}

// SetPeers says with whom to have sessions from now on. Sessions with peers that stay the same are left alone; a peer whose
// filters change keeps its session. A peer that is left out is told so and forgets our routes. Of a list with something wrong
// in it nothing is taken; the error joins a [*podweft.FieldError] for each.
func (s *Speaker) SetPeers(peers []Peer) error {
	full, err := completePeers(s.cfg.AS, peers)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.peers = full
	s.mu.Unlock()
	s.hint()
	return nil
}

// Advertise says what is behind this node from now on; what is left out is withdrawn. Of a list with something wrong in it
// nothing is taken; the error joins a [*podweft.FieldError] for each.
//
// After a restart no session begins before the first call, for at most ten seconds: peers that have kept our routes would hear
// that there are none.
func (s *Speaker) Advertise(ads []Advertisement) error {
	full, err := s.cfg.complete(ads)
	if err != nil {
		return err
	}
	slices.SortFunc(full, compareAdvertisements)
	s.mu.Lock()
	s.ads, s.told = full, true
	s.mu.Unlock()
	s.hint()
	return nil
}

// Run speaks until ctx ends; it then returns nil, and leaves our routes with the peers that keep them over a restart. Its error
// is that it could not begin: the port is taken, as a rule.
func (s *Speaker) Run(ctx context.Context) error {
	s.mu.Lock()
	again := s.started
	s.started = true
	s.mu.Unlock()
	if again {
		return ErrRunning
	}
	memory, restarting, err := recall(s.cfg.StateFile, s.cfg.RestartTime)
	if err != nil {
		s.cfg.Logger.Warn("nothing is remembered", "err", err)
	}
	e, err := startEngine(ctx, s.cfg, restarting)
	if err != nil {
		return err
	}
	// The engine's queue of events leaks a goroutine if it is let go while there is something in it (cleanInfiniteChannel in
	// pkg/server/util.go), so it is listened to until some time after the last event.
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer func() { <-time.After(lastEvents) }()
	defer e.stop()
	if err := e.watch(watching, s.hint, s.hear, s.moved); err != nil {
		return err
	}
	s.setEngine(e)
	defer s.setEngine(nil)
	s.keep(ctx, e, memory)
	return nil
}

func (s *Speaker) setEngine(e *engine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.engine = e
}

// keep makes the engine agree with what is wanted, and publishes what it has learned, until ctx ends.
func (s *Speaker) keep(ctx context.Context, e *engine, m memory) {
	notes := notes{file: s.cfg.StateFile}
	defer func() { s.complain(notes.flush()) }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
		s.mu.Lock()
		peers, ads, told := s.peers, s.ads, s.told
		s.mu.Unlock()
		held := e.holdsBack(told)
		if held > 0 {
			peers = nil
		}
		err := e.set(ctx, peers, ads)
		late, lateErr := e.dialLate(ctx)
		m.forget(time.Now(), s.settled)
		learned, listErr := e.learned()
		if listErr == nil {
			s.publish(m.add(learned, s.advertises))
			notes.take(s.latest().Paths)
		}
		err = errors.Join(err, lateErr, listErr, notes.write())
		s.complain(err)

		again := late
		if held > 0 {
			again = min(again, held)
		}
		if err != nil {
			again = min(again, retry)
		}
		if len(m.paths) > 0 {
			again = min(again, max(0, time.Until(m.until))+time.Millisecond)
		}
		timer.Reset(min(again, notes.due()))
		select {
		case <-ctx.Done():
			return
		case <-time.After(coalesce):
		}
	}
}

// hint makes keep look again. It never blocks.
func (s *Speaker) hint() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Speaker) hear(peer netip.Addr, v4 bool) {
	s.mu.Lock()
	s.heard[heard{peer, v4}] = true
	s.mu.Unlock()
	s.hint()
}

func (s *Speaker) moved(ev sessionEvent) {
	s.mu.Lock()
	if ev.up {
		delete(s.why, ev.peer)
	} else if ev.reason != "" {
		s.why[ev.peer] = ev.reason
	}
	s.mu.Unlock()
	s.cfg.Logger.Debug("session moved", "peer", ev.peer, "up", ev.up, "reason", ev.reason)
	s.hint()
}

// complain keeps and logs what is wrong, once.
func (s *Speaker) complain(err error) {
	s.mu.Lock()
	before := s.err
	s.err = err
	s.mu.Unlock()
	if err != nil && (before == nil || before.Error() != err.Error()) {
		s.cfg.Logger.Warn("not all is in force", "err", err)
	}
}

// settled reports whether a remembered path of that peer and family is worth nothing any more.
func (s *Speaker) settled(peer netip.Addr, v4 bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := slices.ContainsFunc(s.peers, func(p Peer) bool { return p.Addr == peer })
	// Before anybody has said who our peers are, nobody is known to be gone.
	return s.heard[heard{peer, v4}] || len(s.peers) > 0 && !known
}

func (s *Speaker) advertises(p netip.Prefix) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.ads, func(a Advertisement) bool { return a.Prefix == p })
}

// publish makes a snapshot of paths, unless they are those of the last.
func (s *Speaker) publish(paths []Path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var revision uint64
	if s.snapshot != nil {
		if slices.EqualFunc(s.snapshot.Paths, paths, Path.equal) {
			return
		}
		revision = s.snapshot.Revision
	}
	s.snapshot = &Snapshot{Revision: revision + 1, Paths: paths}
	close(s.next)
	s.next = make(chan struct{})
}

func (s *Speaker) latest() *Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot
}

// Snapshots yields what has been learned, once Run has begun, and then again after each change, until ctx ends; changes that
// come together share a snapshot. Sessions that are lost take their paths with them, but for those of a peer that restarts.
func (s *Speaker) Snapshots(ctx context.Context) iter.Seq[*Snapshot] {
	return func(yield func(*Snapshot) bool) {
		var last *Snapshot
		for {
			s.mu.Lock()
			now, next := s.snapshot, s.next
			s.mu.Unlock()
			if ctx.Err() != nil || now != last && !yield(now) {
				return
			}
			last = now
			select {
			case <-ctx.Done():
				return
			case <-next:
			}
		}
	}
}
