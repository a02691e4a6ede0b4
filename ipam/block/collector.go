package block

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/podweft/podweft"
)

// DefaultGrace is how long a [Collector] doubts a node before it takes its shares.
const DefaultGrace = time.Hour

// CollectorConfig says whose shares a [Collector] takes back, and when. Store and Dead are required.
type CollectorConfig struct {
	Store Store
	// Dead is asked on each pass which of the nodes that have shares, or are Known, are dead; see [Collect]. Its word is the proof:
	// that a node is not heard of is a poor one where it may be cut off and its pods run on.
	Dead func(ctx context.Context, nodes []string) ([]string, error)
	// Lead says on each pass whether it is this process's turn, of all that have a Collector. Nil: it always is. Should two
	// have their turn at once nothing breaks, since what they do is compared and swapped.
	Lead func(ctx context.Context) (bool, error)
	// Grace is for how long a node must have been dead, by the wall clock and by this Collector's own, which nobody can set: whoever
	// takes over from another Collector waits anew. Zero: DefaultGrace.
	Grace time.Duration
	// Every is the time from one pass to the next. Zero: a quarter of the Grace, and a minute at the most.
	Every time.Duration
	// Known tells on each pass which nodes there are, with shares or without, and Forget makes one unknown unless it lives, and
	// reports whether it is. A node that has no share, or none any more, is forgotten when Dead has named it for the Grace, so that the
	// dead do not become more and more. Nil: nobody is forgotten. Give both or neither; package roster has them.
	Known  func(ctx context.Context) ([]string, error)
	Forget func(ctx context.Context, node string) (bool, error)
	// Freed hears of the shares that a pass freed. It may be nil.
	Freed func([]Share)
	// Logger hears at Info of shares that are freed and of nodes that are forgotten, and at Warn of a pass that failed. Nil: silent.
	Logger *slog.Logger
}

// Collector takes back what dead nodes had, and forgets those, for as long as it runs. Every node may run one: let Lead choose among them.
type Collector struct {
	cfg     CollectorConfig
	doubted map[Share]time.Time  // Run's: when it met each share as it stands there, doubts and all
	silent  map[string]time.Time // Run's: since when each known node is named by Dead

	mu     sync.Mutex
	status CollectorStatus
}

// CollectorStatus is how a [Collector] is doing.
type CollectorStatus struct {
	Leads     bool  // it was its turn last time
	Passes    int   // that were its turn
	Freed     int   // shares
	Forgotten int   // nodes
	Err       error // why the last pass failed, whole or in part; nil when it did not
}

// NewCollector returns a Collector, which does nothing before Run. The error reports everything wrong with cfg, each as a
// [*podweft.FieldError].
func NewCollector(cfg CollectorConfig) (*Collector, error) {
	var errs []error
	bad := func(field string, value any, problem string) {
		errs = append(errs, &podweft.FieldError{Field: field, Value: value, Problem: problem})
	}
	if cfg.Store == nil {
		bad("Store", nil, "is missing")
	}
	if cfg.Dead == nil {
		bad("Dead", nil, "is missing")
	}
	if (cfg.Known == nil) != (cfg.Forget == nil) {
		bad("Forget", nil, "goes with Known: give both or neither")
	}
	if cfg.Grace < 0 {
		bad("Grace", cfg.Grace, "is negative")
	}
	if cfg.Every < 0 {
		bad("Every", cfg.Every, "is negative")
	}
	cfg.Grace = cmp.Or(cfg.Grace, DefaultGrace)
	cfg.Every = cmp.Or(cfg.Every, min(cfg.Grace/4, time.Minute), 1)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Collector{cfg: cfg, doubted: map[Share]time.Time{}}, errors.Join(errs...)
}

// Run makes passes until ctx ends; it then returns nil. After one that fails the next comes in a second, then in two, four and so on up to
// Every, so that Status does not speak of a trouble long after it is over.
func (c *Collector) Run(ctx context.Context) error {
	soon := min(time.Second, c.cfg.Every)
	retry := soon
	for ctx.Err() == nil {
		wait := c.cfg.Every
		if err := c.pass(ctx); err != nil {
			wait, retry = retry, min(2*retry, c.cfg.Every)
		} else {
			retry = soon
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait - rand.N(1+wait/8)): // those of many nodes must not ask in one moment
		}
	}
	return nil
}

// Status returns how the Collector is doing.
func (c *Collector) Status() CollectorStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// pass looks once, and returns the error that Status has then.
func (c *Collector) pass(ctx context.Context) error {
	leads, freed, forgotten, err := true, []Share(nil), []string(nil), error(nil)
	if c.cfg.Lead != nil {
		leads, err = c.cfg.Lead(ctx)
	}
	leads = leads && err == nil
	if !leads {
		c.silent = nil // nobody looks meanwhile whether they come back
	}
	if leads {
		freed, forgotten, err = c.collect(ctx)
	}
	if ctx.Err() != nil && len(freed)+len(forgotten) == 0 {
		return err
	}
	c.note(leads, len(freed), len(forgotten), err)
	if err != nil {
		c.cfg.Logger.WarnContext(ctx, "blocks of dead nodes were not collected", "err", err)
	}
	for _, s := range freed {
		c.cfg.Logger.InfoContext(ctx, "block of a dead node freed", "share", s.Prefix, "node", s.Node)
	}
	for _, node := range forgotten {
		c.cfg.Logger.InfoContext(ctx, "dead node forgotten", "node", node)
	}
	if len(freed) > 0 && c.cfg.Freed != nil {
		c.cfg.Freed(freed)
	}
	return err
}

// collect is Collect, with a grace that has to be over on two clocks. That of the Store's notes is for all Collectors and can be set: on
// a machine that comes up with a wrong time, and is then told the right one, every grace would be over in that moment. Then it forgets
// the dead that have nothing.
func (c *Collector) collect(ctx context.Context) (freed []Share, forgotten []string, err error) {
	met := map[Share]time.Time{}
	var known, owners, gone []string
	dead := func(ctx context.Context, nodes []string) ([]string, error) {
		owners = nodes
		if c.cfg.Known != nil {
			if known, err = c.cfg.Known(ctx); err != nil {
				return nil, err
			}
		}
		all := slices.Concat(owners, known)
		slices.Sort(all)
		gone, err = c.cfg.Dead(ctx, slices.Compact(all))
		return gone, err
	}
	freed, err = collect(ctx, c.cfg.Store, dead, func(s Share, now time.Time) bool {
		s.Doubted = s.Doubted.Round(0).UTC() // as a Store that writes text returns it
		first, known := c.doubted[s]
		if !known {
			first = time.Now()
		}
		met[s] = first
		return now.Sub(s.Doubted) >= c.cfg.Grace && time.Since(first) >= c.cfg.Grace
	})
	if err != nil {
		maps.Copy(c.doubted, met) // it may not have met all
		c.silent = nil            // nor asked whether they have come back
		return freed, nil, fmt.Errorf("collect blocks: %w", err)
	}
	c.doubted = met
	forgotten, err = c.forget(ctx, known, owners, gone)
	return freed, forgotten, err
}

// forget forgets the nodes in gone that are known, do not own anything, and have been gone for the grace. One that has lost its last
// share on this very pass has its turn on the next, with Dead's word on it once more.
//
// No Store notes the doubt about a node that has no share, so the grace is by this Collector's own clock alone. Should the node come back
// and claim a share in this moment, nothing is lost: it joins again, and until then Dead's answer is the same as of a node that is silent.
func (c *Collector) forget(ctx context.Context, known, owners, gone []string) (forgotten []string, err error) {
	silent := map[string]time.Time{}
	var errs []error
	for _, node := range known {
		if !slices.Contains(gone, node) {
			continue
		}
		first, met := c.silent[node]
		if !met {
			first = time.Now()
		}
		silent[node] = first
		if slices.Contains(owners, node) || time.Since(first) < c.cfg.Grace {
			continue
		}
		switch done, err := c.cfg.Forget(ctx, node); {
		case err != nil:
			errs = append(errs, err)
			continue
		case done:
			forgotten = append(forgotten, node)
		}
		delete(silent, node)
	}
	c.silent = silent
	return forgotten, errors.Join(errs...)
}

func (c *Collector) note(leads bool, freed, forgotten int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.Leads, c.status.Err = leads, err
	c.status.Freed += freed
	c.status.Forgotten += forgotten
	if leads {
		c.status.Passes++
	}
}
