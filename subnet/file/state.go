package file

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/internal/ledger"
)

// version is the format of leases.json that this code reads and writes.
const version = 1

// state is what leases.json holds. A state that readers may have is never changed.
type state struct {
	Version int    `json:"version"`
	Boot    string `json:"boot"` // of the kernel whose clock the deadlines are on
	ledger.Ledger
	NetworkProblem string `json:"networkProblem,omitempty"` // why net-conf.json was not taken; Network is the last good one

	text []byte // as it is in the file
}

// parseState reads a file's text; no text is the state before the first lease. Leases that are the same in previous are
// shared with it.
func parseState(text []byte, previous *state) (*state, error) {
	next := &state{Version: version, text: text}
	if len(text) == 0 {
		return next, nil
	}
	if err := json.Unmarshal(text, next); err != nil {
		return nil, err
	}
	if next.Version != version {
		return nil, fmt.Errorf("format version %d: this program knows version %d", next.Version, version)
	}
	if err := next.check(); err != nil {
		return nil, err
	}
	if previous != nil {
		next.share(previous)
	}
	return next, nil
}

// check finds what no Store would have written, so that a file somebody edited is refused instead of misunderstood.
func (st *state) check() error {
	for i, e := range st.Entries {
		switch {
		case e.Lease == nil:
			return fmt.Errorf("lease number %d is missing", i+1)
		case e.Lease.Prefixes.IsZero() || e.Lease.Key != ledger.Key(e.Lease.Prefixes):
			return fmt.Errorf("lease %q has the wrong key for %s", e.Lease.Key, e.Lease.Prefixes)
		case i > 0 && e.Lease.Key <= st.Entries[i-1].Lease.Key:
			return fmt.Errorf("lease %q is not in order", e.Lease.Key)
		}
	}
	return nil
}

// share replaces the leases that did not change by those of an earlier state.
func (st *state) share(previous *state) {
	for i, e := range st.Entries {
		at, ok := slices.BinarySearchFunc(previous.Entries, e.Lease.Key, func(e ledger.Entry, key string) int { return strings.Compare(e.Lease.Key, key) })
		if ok && previous.Entries[at].Lease.Revision == e.Lease.Revision && previous.Entries[at].Lease.Node == e.Lease.Node {
			st.Entries[i].Lease = previous.Entries[at].Lease
		}
	}
}

// format sets the text.
func (st *state) format() (err error) {
	st.text, err = json.MarshalIndent(st, "", " ")
	return err
}

func (st *state) clone() *state {
	c := *st
	c.Ledger = *st.Ledger.Clone()
	return &c
}

// catchUp takes in what happened without a Store's doing: a reboot, the passing of time, a new net-conf.json.
func (st *state) catchUp(conf networkConf, now ledger.Now) {
	if boot := bootID(); st.Boot != boot {
		st.Boot = boot
		for i, e := range st.Entries {
			st.Entries[i].Deadline = now.Ticks + e.TTL
		}
	}
	st.Expire(now)
	if conf.network != nil {
		st.SetNetwork(conf.network)
	}
	if problem := conf.problem(st.Network); problem != st.NetworkProblem {
		st.NetworkProblem = problem
		st.Revision++
	}
}

// behind reports whether catchUp would change st.
func (st *state) behind(conf networkConf, now ledger.Now) bool {
	next, expired := st.NextDeadline()
	return st.Boot != bootID() || expired && next <= now.Ticks ||
		conf.network != nil && !conf.network.Equal(st.Network) || conf.problem(st.Network) != st.NetworkProblem
}

func (st *state) snapshot() *subnet.Snapshot {
	s := st.Ledger.Snapshot()
	if st.NetworkProblem != "" {
		s.Problems = []subnet.Problem{{Key: networkFile, Err: errors.New(st.NetworkProblem)}}
	}
	return s
}

// networkConf is what became of reading net-conf.json.
type networkConf struct {
	network *subnet.Network // nil when there is none to be had
	err     error
}

// problem is what to tell about a net-conf.json that was not taken. While there has never been one, its absence is no
// problem but ErrNoNetwork.
func (c networkConf) problem(known *subnet.Network) string {
	if c.err == nil || known == nil && errors.Is(c.err, fs.ErrNotExist) {
		return ""
	}
	return c.err.Error()
}

func (s *Store) readNetwork() networkConf {
	text, err := os.ReadFile(s.path(networkFile))
	if err != nil {
		return networkConf{err: err}
	}
	n, err := subnet.ParseNetwork(text)
	return networkConf{n, err}
}

// noNetwork is why there is no network: nobody wrote net-conf.json, or it is bad.
func (s *Store) noNetwork() error {
	conf := s.readNetwork()
	if conf.err != nil && !errors.Is(conf.err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", s.path(networkFile), conf.err)
	}
	return fmt.Errorf("%w: write %s", subnet.ErrNoNetwork, s.path(networkFile))
}
