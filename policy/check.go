package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/podweft/podweft"
)

// checker collects what is wrong with one object.
type checker struct {
	of   ID
	errs []error
}

// at is where a value stands. It is called only when something is wrong there: the text costs more than the check.
type at func() string

func (a at) dot(field string) at { return func() string { return a() + "." + field } }

func (a at) index(field string, i int) at {
	return func() string { return fmt.Sprintf("%s.%s[%d]", a(), field, i) }
}

func spec() string { return "spec" }

// bad notes a problem. It returns false, for checks that end so.
func (c *checker) bad(where at, value any, problem, remedy string) bool {
	c.errs = append(c.errs, &podweft.FieldError{Field: c.of.String() + ": " + where(), Value: value, Problem: problem, Remedy: remedy})
	return false
}

func (c *checker) named(namespaced bool) bool {
	ok := true
	if c.of.Name == "" {
		ok = c.bad(func() string { return "metadata.name" }, nil, "is missing", "")
	}
	if namespaced && c.of.Namespace == "" {
		ok = c.bad(func() string { return "metadata.namespace" }, nil, "is missing", `use "default" where kubectl would`)
	}
	return ok
}

func (c *checker) selector(where at, s Selector) bool {
	ok := true
	for _, key := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		ok = c.labelKey(where, "matchLabels", key) && ok
		ok = c.labelValue(where, "matchLabels", s.MatchLabels[key]) && ok
	}
	for i, r := range s.MatchExpressions {
		ok = c.requirement(where.index("matchExpressions", i), r) && ok
	}
	return ok
}

func (c *checker) requirement(where at, r Requirement) bool {
	ok := c.labelKey(where, "key", r.Key)
	switch r.Operator {
	case In, NotIn:
		if len(r.Values) == 0 {
			ok = c.bad(where.dot("values"), nil, "is missing", fmt.Sprintf("%s needs at least one value", r.Operator))
		}
	case Exists, DoesNotExist:
		if len(r.Values) > 0 {
			ok = c.bad(where.dot("values"), strings.Join(r.Values, ","), "has no meaning here", fmt.Sprintf("%s takes no values", r.Operator))
		}
	default:
		ok = c.bad(where.dot("operator"), fmt.Sprintf("%q", r.Operator), "is not an operator", "use In, NotIn, Exists or DoesNotExist")
	}
	for _, value := range r.Values {
		ok = c.labelValue(where, "values", value) && ok
	}
	return ok
}

func (c *checker) labelKey(where at, field, key string) bool {
	if isLabelKey(key) {
		return true
	}
	return c.bad(where.dot(field), fmt.Sprintf("%q", key), "is not a label's key", `write at most 63 letters, digits, "-", "_" and ".", perhaps after a DNS name and "/"`)
}

func (c *checker) labelValue(where at, field, value string) bool {
	if value == "" || isLabelName(value) {
		return true
	}
	return c.bad(where.dot(field), fmt.Sprintf("%q", value), "is not a label's value", `write at most 63 letters, digits, "-", "_" and "."`)
}

// peer checks one of a rule's peers. Those of cluster policies have rules of their own.
func (c *checker) peer(where at, p Peer, d Direction) bool {
	cluster := c.of.Kind == KindClusterPolicy
	switch {
	case p.Block == nil && p.Pods == nil && p.Namespaces == nil:
		return c.bad(where, nil, "is empty", "select pods, namespaces or a block of addresses")
	case p.Block != nil && (p.Pods != nil || p.Namespaces != nil):
		return c.bad(where, nil, "has a block of addresses and a selector", "make two peers of it")
	case p.Block != nil && cluster:
		return c.networks(where.dot("networks"), p.Block, d)
	case p.Block != nil:
		return c.block(where.dot("ipBlock"), p.Block)
	case cluster && p.Namespaces == nil:
		return c.bad(where.dot("namespaceSelector"), nil, "is missing", "{} selects all namespaces")
	}
	ok := p.Namespaces == nil || c.selector(where.dot("namespaceSelector"), *p.Namespaces)
	return (p.Pods == nil || c.selector(where.dot("podSelector"), *p.Pods)) && ok
}

// block reports holes that make no sense, but only a block whose addresses cannot be told is unusable.
func (c *checker) block(where at, b *Block) bool {
	ok := c.prefix(where.dot("cidr"), b.CIDR)
	for i, except := range b.Except {
		hole := where.index("except", i)
		if !c.prefix(hole, except) {
			ok = false
		} else if ok && (!b.CIDR.Contains(except.Addr()) || except.Bits() <= b.CIDR.Bits()) {
			c.bad(hole, except, "is no part of "+b.CIDR.String(), "leave it out, or name a smaller block within")
		}
	}
	return ok
}

func (c *checker) networks(where at, b *Block, d Direction) bool {
	ok := c.prefix(where, b.CIDR)
	if d == Ingress {
		ok = c.bad(where, b.CIDR, "is not for ingress", "select pods or namespaces")
	}
	if len(b.Except) > 0 {
		ok = c.bad(where, b, "has holes", "write a rule for them before this one")
	}
	return ok
}

// prefix accepts host bits, as Kubernetes does.
func (c *checker) prefix(where at, p netip.Prefix) bool {
	switch {
	case !p.IsValid():
		return c.bad(where, nil, "is missing or not a block of addresses", `one reads like "10.244.0.0/16" or "fd00::/64"`)
	case p.Addr().Is4In6():
		return c.bad(where, p, "is IPv4 written as IPv6", "write it as IPv4: that is how its packets travel")
	}
	return true
}

func (c *checker) port(where at, p Port, blocks bool) bool {
	ok := true
	if !p.Protocol.orTCP().hasPorts() {
		ok = c.bad(where.dot("protocol"), uint8(p.Protocol), "is not a protocol with ports", "use TCP, UDP or SCTP")
	}
	switch {
	case p.Name != "" && p.Number != 0:
		ok = c.bad(where.dot("port"), p.Name, "is given by name and by number", "make two ports of it")
	case p.Name != "" && !isPortName(p.Name):
		ok = c.bad(where.dot("port"), fmt.Sprintf("%q", p.Name), "is not a port's name", `write at most 15 lower-case letters, digits and "-", at least one of them a letter`)
	case p.Name != "" && blocks && c.of.Kind == KindClusterPolicy:
		ok = c.bad(where.dot("destinationNamedPort"), p.Name, "is not for networks", "they have no names for ports: give its number")
	}
	switch {
	case p.End == 0:
	case p.Number == 0:
		ok = c.bad(where.dot("endPort"), p.End, "has no beginning", "give the number of the first port beside it")
	case p.End < p.Number:
		ok = c.bad(where.dot("endPort"), p.End, fmt.Sprintf("comes before port %d", p.Number), "")
	}
	return ok
}

// isLabelKey is the syntax of Kubernetes: an optional DNS subdomain and "/", then a name.
func isLabelKey(s string) bool {
	if prefix, name, ok := strings.Cut(s, "/"); ok {
		return isSubdomain(prefix) && isLabelName(name)
	}
	return isLabelName(s)
}

// isLabelName: at most 63 characters, of which the first and the last are letters or digits.
func isLabelName(s string) bool {
	if s == "" || len(s) > 63 || !isAlnum(s[0]) || !isAlnum(s[len(s)-1]) {
		return false
	}
	for _, b := range []byte(s) {
		if !isAlnum(b) && b != '-' && b != '_' && b != '.' {
			return false
		}
	}
	return true
}

// isSubdomain is the syntax of RFC 1123 in lower case, at most 253 characters.
func isSubdomain(s string) bool {
	if len(s) > 253 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' || strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

// isPortName is the syntax of RFC 6335, section 5.1, in lower case.
func isPortName(s string) bool {
	return len(s) <= 15 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" &&
		strings.ContainsAny(s, "abcdefghijklmnopqrstuvwxyz") &&
		!strings.Contains(s, "--") && s[0] != '-' && s[len(s)-1] != '-'
}

func isAlnum(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
}
