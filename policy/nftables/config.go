package nftables

import (
	"cmp"
	"log/slog"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/internal/word"
)

// DefaultOwner is the owner of an instance that does not name itself. Its table is podweft-policy.
const DefaultOwner = "podweft"

// Config says how a Driver reaches the kernel. Its zero value is good.
type Config struct {
	// Owner names the instance; empty means DefaultOwner. Its table is podweft-OWNER-policy. Of instances side by side each
	// has a veto.
	Owner string
	// NetNS is the path of the network namespace to work in; empty means the caller's.
	NetNS string
	// Shared leaves the table open to other programs, as any is where the kernel cannot do better: what they do to it is repaired
	// when [Driver.Watch] has told of it, and until then policies are not in force. Without Shared, and since Linux 6.9, a table
	// that the driver makes is its own (nftables' flags owner and persist) until Close: `nft flush ruleset` passes it by, and
	// who wants to change or delete it, an administrator or another Driver, gets EPERM. It outlives the driver; the next one
	// makes it its own as it finds it. A table made with Shared, or by a version that knew no better, stays shared until it is
	// deleted.
	Shared bool
	// LogGroup is the group of netlink's NFLOG to which each denied packet goes, with the policy in its prefix; 0 is none.
	LogGroup uint16
	// Logger gets each change at debug level; nil means silence.
	Logger *slog.Logger
}

// Validate reports what makes no sense in the Config as a [*podweft.FieldError].
func (cfg Config) Validate() error {
	if cfg.Owner == "" || word.Valid(cfg.Owner, 64) {
		return nil
	}
	return &podweft.FieldError{
		Field: "Owner", Value: cfg.Owner, Problem: "cannot be part of a table's name",
		Remedy: "use up to 64 letters, digits, dots, dashes and underscores, a letter or digit first",
	}
}

func (cfg Config) table() nft.Table {
	if owner := cmp.Or(cfg.Owner, DefaultOwner); owner != DefaultOwner {
		return nft.Table{Family: nft.INet, Name: "podweft-" + owner + "-policy"}
	}
	return nft.Table{Family: nft.INet, Name: "podweft-policy"}
}
