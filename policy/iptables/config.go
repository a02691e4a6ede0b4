package iptables

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"

	"github.com/podweft/podweft"
)

// DefaultOwner is the owner of an instance that does not name itself.
const DefaultOwner = "podweft"

// Variant is which of the two programs of one name is run. Both have tables of their own in the kernel, and a packet has to pass
// both.
type Variant string

// The variants. The zero Variant is the one that the host's other programs use, or else the one that is called iptables.
const (
	Legacy Variant = "legacy"
	NFT    Variant = "nft"
)

// Config says how a Driver reaches the kernel. Its zero value is good.
type Config struct {
	// Owner names the instance; empty means DefaultOwner. Its chains and sets begin with letters made of it. Of instances
	// side by side each has a veto.
	Owner string
	// NetNS is the path of the network namespace to work in; empty means the caller's.
	NetNS string
	// Variant is found out if it is empty, as kubelet's hint has it.
	Variant Variant
	// LogGroup is the group of netlink's NFLOG to which each denied packet goes, with the policy in its prefix; 0 is none.
	LogGroup uint16
	// Logger gets each change at debug level; nil means silence.
	Logger *slog.Logger
}

var ownerForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// Validate reports everything in the Config that makes no sense, each as a [*podweft.FieldError].
func (cfg Config) Validate() error {
	var errs []error
	if cfg.Owner != "" && !ownerForm.MatchString(cfg.Owner) {
		errs = append(errs, &podweft.FieldError{
			Field: "Owner", Value: cfg.Owner, Problem: "cannot be an owner's name",
			Remedy: "use up to 64 letters, digits, dots, dashes and underscores, a letter or digit first",
		})
	}
	if cfg.Variant != "" && cfg.Variant != Legacy && cfg.Variant != NFT {
		errs = append(errs, &podweft.FieldError{
			Field: "Variant", Value: fmt.Sprintf("%q", cfg.Variant), Problem: "is not a variant of iptables", Remedy: `use "legacy", "nft" or none`,
		})
	}
	return errors.Join(errs...)
}

// names makes the names of one owner's chains and sets.
type names struct {
	prefix string // 6 characters
}

// names of two owners differ unless 20 bits of their hashes are equal: more would leave too little room for the rest.
func (cfg Config) names() names {
	return names{"pw" + hashed(cmp.Or(cfg.Owner, DefaultOwner))[:4]}
}

func hashed(text string) string {
	sum := sha256.Sum256([]byte(text))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))
}

// frame is the name of a chain that is there whatever the policies are.
func (n names) frame(word string) string { return n.prefix + "-" + word }

// class is the name of a class's chain: 28 characters, which is all that the kernel has room for (XT_EXTENSION_MAXNAMELEN, less the
// zero). The first two of the class's own say that it is one, which here goes without saying.
func (n names) class(name string) string { return n.prefix + name[min(len(name), 2):] }

// next is the chain of a class where a packet goes on that an Admin policy passes.
func (n names) next(class string) string { return n.prefix + hashed("next " + class)[:22] }

// ours reports whether a chain's or a set's name is.
func (n names) ours(name string) bool { return strings.HasPrefix(name, n.prefix) }

// set is the name of a set, of at most 31 characters (IPSET_MAXNAMELEN, less the zero), in which its version is not decided yet.
func (n names) set(f family, name string) string {
	if kind, hash, ok := strings.Cut(name, "-"); ok && kind != "" {
		name = kind + hash // as the Ruleset has them: p-…
	}
	return n.prefix + string(f.digit) + "." + name
}

// version is a letter that tells a set from the one that takes its place.
type version byte

func (v version) other() version { return 'a' + 'b' - v }

// versionAt is where a set's name has its version.
const versionAt = len("pw....4")

// of returns the name of a set's version.
func (v version) of(set string) string { return set[:versionAt] + string(v) + set[versionAt+1:] }

// unversioned splits the name of a set's version.
func unversioned(name string) (set string, v version) {
	if len(name) <= versionAt {
		return name, 0
	}
	return name[:versionAt] + "." + name[versionAt+1:], version(name[versionAt])
}
