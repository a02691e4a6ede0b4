package ipam

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/podweft/podweft"
)

// Limits of a Config. They bound the blocks that one change of the file touches.
const (
	// MaxRanges is how many ranges a Config takes in all its sets.
	MaxRanges = 12

	maxSets = 4
)

// mapped is where IPv4 addresses lie in IPv6 form (RFC 4291, 2.5.5.2).
var mapped = netip.MustParsePrefix("::ffff:0:0/96")

// unfit are the addresses that no pod's port takes: loopback and link-local ones.
var unfit = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10"),
}

// Range is a part of a subnet that addresses are taken from.
type Range struct {
	// Prefix is the subnet. Its length goes with each address.
	Prefix netip.Prefix
	// First and Last bound the addresses given out. Zero: all of Prefix but the network's and the broadcast address
	// (IPv4) or the subnet-router anycast address (IPv6).
	First, Last netip.Addr
	// Gateway goes with each address and is never given out. It may lie outside Prefix, as 169.254.1.1 does on routed
	// ports. Zero: the first host address of Prefix, or none where Routed.
	Gateway netip.Addr
	// Routed says that no link has Prefix: each address has a route of its own. Then all of Prefix can be given, the first
	// and the last address too, and an address goes with its full length, /32 or /128.
	Routed bool
}

// Config says what a Pool gives out and where it keeps the record.
type Config struct {
	// Path of the store file. Required. Open creates it, and its directory, if they are missing. Beside it a file of
	// the same name with ".new" appears for a moment.
	Path string

	// Prefixes are subnets that an owner gets one address of each, with everything else as a Range has it by default.
	// It is the short form of Sets, for a node that simply has one prefix of each family.
	Prefixes []netip.Prefix

	// Sets of ranges, after those of Prefixes: an owner gets one address from each set, from whichever of its ranges
	// has one. The ranges of a set are of one family. At most 4 sets and 12 ranges, no two of which overlap.
	//
	// Without any set a Pool gives nothing to who holds nothing: it looks up and releases, which is what a CNI plugin needs for DEL when it no longer
	// knows the node's prefixes.
	//
	// When the sets are not those that the file was made for (the node's prefix moved), the next Allocate lays it out
	// anew; what is held stays held, and an address that is in the old and the new ranges is not given out twice.
	Sets [][]Range

	// Reserved addresses are never given out; what is held already stays held.
	Reserved []netip.Prefix

	// BootID names the life of the kernel in which allocations are valid. Empty: that of the running kernel.
	BootID string

	// Grace is how long a released address is kept back, so that neighbour caches and connections to it die first.
	// Zero: not at all, only rotation keeps them apart. An owner that wants the address by name gets it at once.
	Grace time.Duration

	// Patience is how long a call waits while another process holds the file's lock, which takes none that runs more than milliseconds: one
	// that was stopped (SIGSTOP, a frozen cgroup) keeps it. The call then gives [ErrLocked]. Zero: until ctx ends.
	Patience time.Duration

	// Logger hears about files of an earlier boot, changed ranges and calls completed for a dead process. Nil: silent.
	Logger *slog.Logger
}

// Validate reports everything that is wrong with c, joined, each as a [*podweft.FieldError].
func (c Config) Validate() error {
	_, err := c.compile()
	return err
}

func (c Config) compile() (*ruleset, error) {
	var errs []error
	bad := func(field string, value any, problem, remedy string) {
		errs = append(errs, &podweft.FieldError{Field: field, Value: value, Problem: problem, Remedy: remedy})
	}
	if c.Path == "" {
		bad("Path", nil, "is missing", "name the store file")
	}
	if c.Grace < 0 {
		bad("Grace", c.Grace, "is negative", "")
	}
	if c.Patience < 0 {
		bad("Patience", c.Patience, "is negative", "")
	}
	if len(c.BootID) > maxBootID {
		bad("BootID", c.BootID, "is too long", fmt.Sprintf("use at most %d bytes", maxBootID))
	}
	for i, p := range c.Reserved {
		switch {
		case !p.IsValid():
			bad(fmt.Sprintf("Reserved[%d]", i), p, "is not a prefix", "write one like 10.244.1.10/32")
		case p.Addr().Is4In6():
			bad(fmt.Sprintf("Reserved[%d]", i), p, "holds IPv4 addresses in IPv6 form", "write IPv4 as IPv4")
		case p != p.Masked():
			one := netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
			bad(fmt.Sprintf("Reserved[%d]", i), p, "has host bits", fmt.Sprintf("write %s for the one address, %s for all", one, p.Masked()))
		}
	}

	rules := &ruleset{reserved: c.Reserved}
	names := []string{} // of every range, in the order of rules.geometry
	for i, p := range c.Prefixes {
		r, err := Range{Prefix: p}.complete(fmt.Sprintf("Prefixes[%d]", i))
		errs = append(errs, err)
		names = append(names, fmt.Sprintf("Prefixes[%d]", i))
		rules.ranges = append(rules.ranges, []Range{r})
	}
	for i, set := range c.Sets {
		name := fmt.Sprintf("Sets[%d]", i)
		if len(set) == 0 {
			bad(name, nil, "has no range", "")
		}
		complete := make([]Range, 0, len(set))
		for j, r := range set {
			full, err := r.complete(fmt.Sprintf("%s[%d]", name, j))
			errs = append(errs, err)
			names = append(names, fmt.Sprintf("%s[%d]", name, j))
			complete = append(complete, full)
		}
		rules.ranges = append(rules.ranges, complete)
	}
	if len(rules.ranges) > maxSets {
		bad("Sets", len(rules.ranges), "are too many, those of Prefixes counted", fmt.Sprintf("use at most %d", maxSets))
	}
	if len(names) > MaxRanges {
		bad("Sets", len(names), "ranges are too many", fmt.Sprintf("use at most %d", MaxRanges))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}

	for _, set := range rules.ranges {
		var spans []span
		for _, r := range set {
			spans = append(spans, span{r.First, r.Last})
		}
		rules.geometry = append(rules.geometry, spans)
	}
	if n, problem := rules.geometry.flaw(); problem != "" {
		return nil, &podweft.FieldError{Field: names[n], Problem: problem}
	}
	rules.exclude()
	for i := range rules.ranges {
		if rules.capacity(i) == 0 {
			errs = append(errs, &podweft.FieldError{
				Field: names[rules.geometry.index(i)], Value: rules.geometry[i],
				Problem: "has no address to give beside its gateway and what is reserved", Remedy: "use a shorter prefix",
			})
		}
	}
	return rules, errors.Join(errs...)
}

// complete checks r and fills in its defaults. field is r's name in errors.
func (r Range) complete(field string) (Range, error) {
	bad := func(sub string, value any, problem, remedy string) (Range, error) {
		return r, &podweft.FieldError{Field: field + sub, Value: value, Problem: problem, Remedy: remedy}
	}
	p := r.Prefix
	switch {
	case !p.IsValid():
		return bad("", p, "is not a prefix", "write one like 10.244.1.0/24")
	case p.Overlaps(mapped):
		return bad("", p, "holds IPv4 addresses in IPv6 form", "write IPv4 as IPv4")
	case p != p.Masked():
		return bad("", p, "has host bits", "write "+p.Masked().String())
	case p.Addr().IsMulticast():
		return bad("", p, "is multicast", "")
	}
	for _, u := range unfit {
		if p.Overlaps(u) {
			return bad("", p, "has addresses of "+u.String()+", which no pod can have", "use a prefix for private networks, as in 10.0.0.0/8 or fd00::/8")
		}
	}
	usable := hosts(p)
	if r.Routed {
		usable = span{p.Addr(), last(p)}
	}
	if usable.last.Less(usable.first) || !p.Contains(usable.first) {
		return bad("", p, "has no host address", "use a shorter prefix")
	}
	if !r.Gateway.IsValid() && !r.Routed {
		r.Gateway = usable.first
	}
	g := r.Gateway
	if g.Is4() && p.Contains(g) && !usable.contains(g) {
		return bad(".Gateway", g, "is not a host address of "+p.String(), "use "+usable.first.String()+" to "+usable.last.String())
	}
	if g.IsValid() && (g.Is4() != p.Addr().Is4() || g.Is4In6() || g.Zone() != "" || g.IsUnspecified()) {
		return bad(".Gateway", r.Gateway, "cannot be the gateway of "+p.String(), "")
	}
	if !r.First.IsValid() {
		r.First = usable.first
	}
	if !r.Last.IsValid() {
		r.Last = usable.last
	}
	switch {
	case !usable.contains(r.First):
		return bad(".First", r.First, "is not a host address of "+p.String(), "")
	case !usable.contains(r.Last):
		return bad(".Last", r.Last, "is not a host address of "+p.String(), "")
	case r.Last.Less(r.First):
		return bad(".Last", r.Last, "comes before First "+r.First.String(), "")
	}
	return r, nil
}
