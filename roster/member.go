package roster

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/podweft/podweft"
)

// DefaultTTL is how long a node counts as alive after it was heard of last.
const DefaultTTL = 30 * time.Second

// MemberConfig says what a node tells of itself, and where. Store and Node.Name are required.
type MemberConfig struct {
	Store  Store
	Node   Node
	TTL    time.Duration // how long the node counts as alive when it is not heard of; zero: DefaultTTL
	Logger *slog.Logger  // hears at Warn of a Store that cannot be asked; nil: silent
}

// Member keeps one node known and alive. It is safe for concurrent use.
type Member struct {
	store Store
	ttl   time.Duration
	log   *slog.Logger
	wake  chan struct{} // size 1: there is something new to say

	mu   sync.Mutex
	node Node
}

// NewMember returns a Member, which has told nobody yet. The error reports everything wrong with cfg, each as a
// [*podweft.FieldError].
func NewMember(cfg MemberConfig) (*Member, error) {
	errs := []error{cfg.Node.Validate()}
	if cfg.Store == nil {
		errs = append(errs, &podweft.FieldError{Field: "Store", Problem: "is missing"})
	}
	if cfg.TTL < 0 {
		errs = append(errs, &podweft.FieldError{Field: "TTL", Value: cfg.TTL, Problem: "is negative", Remedy: "leave it zero for half a minute"})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.TTL == 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Member{store: cfg.Store, ttl: cfg.TTL, log: cfg.Logger, wake: make(chan struct{}, 1), node: cfg.Node.Clone()}, nil
}

// Publish makes Run tell something else of the node, whose Name must stay. The last Publish counts.
func (m *Member) Publish(n Node) error {
	err := n.Validate()
	m.mu.Lock()
	defer m.mu.Unlock()
	if n.Name != m.node.Name {
		err = errors.Join(err, &podweft.FieldError{Field: "Name", Value: n.Name, Problem: "is not that of " + m.node.Name})
	}
	if err != nil {
		return err
	}
	m.node = n.Clone()
	select {
	case m.wake <- struct{}{}:
	default:
	}
	return nil
}

// Run joins, and joins again three times in every TTL, until ctx ends; it then returns nil. The node stays known, and alive until
// its TTL is over, so that a restart goes unnoticed. A Store that cannot be asked is asked again until it can.
func (m *Member) Run(ctx context.Context) error {
	silent := false
	for ctx.Err() == nil {
		m.mu.Lock()
		n := m.node
		m.mu.Unlock()
		pause := m.ttl / 3
		err := m.store.Join(ctx, n, m.ttl)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			pause = min(pause, longest)
			if !silent {
				m.log.WarnContext(ctx, "this node cannot tell that it is alive", "node", n.Name, "err", err)
			}
		case silent:
			m.log.InfoContext(ctx, "this node tells again that it is alive", "node", n.Name)
		}
		silent = err != nil
		select {
		case <-ctx.Done():
		case <-m.wake:
		case <-time.After(pause - rand.N(1+pause/8)): // a thousand nodes must not come in one moment
		}
	}
	return nil
}
