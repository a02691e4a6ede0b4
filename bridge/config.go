package bridge

import (
	"log/slog"

	"github.com/podweft/podweft/internal/cable"
)

// DefaultOwner is the owner of an instance that does not name itself.
const DefaultOwner = "podweft"

// Config says how an Attacher reaches the kernel. Its zero value is an attacher for the caller's network namespace.
type Config struct {
	// Owner names the instance; empty means DefaultOwner. The bridge bears it in its alias, "podweft:OWNER", and so do the
	// host ends of ports, "podweft:OWNER/CONTAINER/INTERFACE". Two instances in one namespace need two owners and two
	// bridges.
	Owner string
	// NetNS is the path of the node's network namespace, such as /run/netns/node1; empty means the caller's.
	NetNS string
	// Adopt takes over what another CNI plugin has left: a bridge without an alias whose ports are all veth pairs, which then
	// bears our mark and keeps its MAC; and at Detach the pod's end of a port that somebody else made. Traffic of the pods
	// there goes on. Without it these are ErrConflict, or left alone.
	Adopt bool
	// Logger gets every change at level debug; nil means silence.
	Logger *slog.Logger
}

// Validate reports everything that is wrong with cfg, each as a [*podweft.FieldError].
func (cfg Config) Validate() error {
	var f cable.Fields
	f.Owner(cfg.Owner)
	return f.Err()
}
