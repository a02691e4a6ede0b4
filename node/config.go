package node

import (
	"errors"
	"log/slog"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

// Config says what a Node is and what it is made of. Name, Store and Backend are required.
type Config struct {
	// Name of the node, unique in the cluster: what its lease goes by.
	Name string
	// Underlay says which interface leads to the other nodes; its zero value chooses that of the default route. The node's
	// addresses there are published, its MTU less the backend's overhead is the pods'.
	Underlay Choice
	// Store keeps the leases.
	Store subnet.Store
	// Backend makes the other nodes' pods reachable.
	Backend Backend
	// Masquerade gives pods the node's address when they talk to the world outside the network.
	Masquerade bool
	// Forward has the host's firewall pass what comes from pods and goes to pods, where it drops by default, as with Docker: see
	// package forward.
	Forward bool
	// Owner marks the masquerade table and the firewall's rules, as in nat.Config and forward.Config. The backend's driver has an Owner of its own.
	Owner string
	// NetNS is the path of the node's network namespace; empty means the caller's.
	NetNS string
	// StateFile keeps the lease over restarts, so that the node asks for its previous subnet and keeps its VTEP's MAC even when
	// the store has forgotten it. It is written atomically. Empty means that the store alone remembers.
	StateFile string
	// TTL is how long the lease outlives the node; 0 is the store's own.
	TTL time.Duration
	// Logger gets what happens to the lease, and bad leases of other nodes. Nil means silence.
	Logger *slog.Logger
}

// Validate reports what is missing or makes no sense, each as a [*podweft.FieldError].
func (c Config) Validate() error {
	var errs []error
	for _, f := range []struct {
		missing       bool
		field, remedy string
	}{
		{c.Name == "", "Name", "name the node, uniquely in the cluster"},
		{c.Store == nil, "Store", "make one with a package below subnet"},
		{c.Backend == nil, "Backend", "make one with NewBackend"},
	} {
		if f.missing {
			errs = append(errs, &podweft.FieldError{Field: f.field, Problem: "is missing", Remedy: f.remedy})
		}
	}
	return errors.Join(append(errs, c.Underlay.validate())...)
}
