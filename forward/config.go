package forward

import (
	"log/slog"
	"regexp"

	"github.com/podweft/podweft"
)

// DefaultOwner is the owner of an instance that does not name itself.
const DefaultOwner = "podweft"

// Config says how a Driver reaches the kernel. Its zero value is good.
type Config struct {
	// Owner names the instance; empty means DefaultOwner. It is in the comment of each rule: two instances have two.
	Owner string
	// NetNS is the path of the network namespace to work in; empty means the caller's.
	NetNS string
	// Logger gets each change at debug level; nil means silence.
	Logger *slog.Logger
}

var ownerForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// Validate reports what makes no sense in the Config as a [*podweft.FieldError].
func (cfg Config) Validate() error {
	if cfg.Owner != "" && !ownerForm.MatchString(cfg.Owner) {
		return &podweft.FieldError{
			Field: "Owner", Value: cfg.Owner, Problem: "cannot be part of a rule's comment",
			Remedy: "use up to 64 letters, digits, dots, dashes and underscores, a letter or digit first",
		}
	}
	return nil
}
