// Package storetest tests whether a subnet.Store keeps its promises: no overlap however many nodes race, the same subnet for
// the same node, reservations that stay, leases that are lost when they are lost, watches that show every change and end
// cleanly. Whoever writes a Store runs it from a test of their own:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, storetest.Config{New: func(t *testing.T, n *subnet.Network) subnet.Store { return mystore.New(n) }})
//	}
//
// Run compares the number of goroutines before and after some of its tests: let no parallel test run beside it. It does not
// test speed, nor what is special to an engine.
package storetest

import (
	"slices"
	"testing"
	"time"

	"github.com/podweft/podweft/subnet"
)

// Config tells [Run] how to make the Store and what it can do. Only New is required.
type Config struct {
	// New returns a Store over an empty place of its own, such as a fresh directory or key prefix, configured with the
	// network, or not configured if that is nil. Each test calls it once; t.Cleanup takes the place away.
	New func(t *testing.T, network *subnet.Network) subnet.Store

	// Another returns a second client of s's place, as another node's process has it. nil: s itself serves all nodes.
	Another func(t *testing.T, s subnet.Store) subnet.Store

	// SetNetwork changes the configuration of s's place. nil: tests of changed configurations are skipped.
	SetNetwork func(t *testing.T, s subnet.Store, network *subnet.Network)

	// Disconnect breaks s's connection, so that its running watches end with an error, then calls meanwhile, which
	// changes leases through Another, and lets s work again. nil: a watch is merely ended and started again.
	Disconnect func(t *testing.T, s subnet.Store, meanwhile func())

	// Give has s's place give p to the node, for a Store that does not choose subnets: Kubernetes gives each node its own, and an
	// agent only takes it. Each node is given one before it first claims. nil: the Store chooses. Tests of the choice are skipped
	// otherwise.
	Give func(t *testing.T, s subnet.Store, node string, p subnet.Prefixes)

	// TTL is the shortest that the Store can keep. Zero: its leases do not expire, and tests of expiry are skipped.
	TTL time.Duration

	// Patience is how long a change may take to be seen. Zero: 10 seconds.
	Patience time.Duration

	// Skip names tests that make no sense for this Store, each with the reason. A name that is no test fails.
	Skip map[string]string
}

// Run tests the Store; each promise is a subtest.
func Run(t *testing.T, cfg Config) {
	if cfg.Patience == 0 {
		cfg.Patience = 10 * time.Second
	}
	tests := slices.Concat(claimTests, leaseTests, reservationTests, watchTests)
	for name := range cfg.Skip {
		if !slices.ContainsFunc(tests, func(c check) bool { return c.name == name }) {
			t.Errorf("storetest.Config.Skip: %q is no test", name)
		}
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			if why := cfg.Skip[c.name]; why != "" {
				t.Skip(why)
			}
			c.run(&harness{T: t, cfg: cfg})
		})
	}
}

// check is one promise.
type check struct {
	name string
	run  func(h *harness)
}
