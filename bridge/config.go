package bridge

import (
	"log/slog"

	"github.com/podweft/podweft"
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

// maxOwner keeps an alias below the kernel's limit, together with maxContainer.
const maxOwner = 64

// isOwner is written out: regular expressions are compiled anew in each of the short-lived processes that attach one pod.
func isOwner(s string) bool {
	for i, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '_' && c != '.' && c != '-') {
			return false
		}
	}
	return len(s) <= maxOwner
}

// Validate reports everything that is wrong with cfg, each as a [*podweft.FieldError].
func (cfg Config) Validate() error {
	if cfg.Owner != "" && !isOwner(cfg.Owner) {
		return &podweft.FieldError{
			Field: "Owner", Value: cfg.Owner, Problem: "cannot be part of a mark",
			Remedy: "use up to 64 letters, digits, dots, dashes and underscores, a letter or digit first",
		}
	}
	return nil
}
