package ptp

import (
	"log/slog"

	"github.com/podweft/podweft/internal/cable"
)

// DefaultOwner is the owner of an instance that does not name itself.
const DefaultOwner = "podweft"

// Config says how an Attacher or a Driver reaches the kernel. Its zero value is one for the caller's network namespace.
type Config struct {
	// Owner names the instance; empty means DefaultOwner. The node's ends of ports bear it in their alias,
	// "podweft:OWNER/CONTAINER/INTERFACE", and routes have a protocol that is derived from it. An Attacher and a Driver of one
	// owner deal with the same ports; two instances in one namespace need two owners.
	Owner string
	// NetNS is the path of the node's network namespace, such as /run/netns/node1; empty means the caller's.
	NetNS string
	// Logger gets every change at level debug; nil means silence.
	Logger *slog.Logger
}

// Validate reports everything that is wrong with cfg, each as a [*podweft.FieldError].
func (cfg Config) Validate() error {
	var f cable.Fields
	f.Owner(cfg.Owner)
	return f.Err()
}
