package calico

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/policy"
)

// The conditions of Calico's selectors that ours can say too.
var (
	hasLabel  = regexp.MustCompile(`^(!?)\s*has\(\s*([\w./-]+)\s*\)$`)
	isValue   = regexp.MustCompile(`^([\w./-]+)\s*(==|!=)\s*(?:"([^"]*)"|'([^']*)')$`)
	isOneOf   = regexp.MustCompile(`^([\w./-]+)\s+(in|not\s+in)\s*\{([^}]*)\}$`)
	quotation = regexp.MustCompile(`"([^"]*)"|'([^']*)'`)
)

// ParseSelector reads a selector as Calico writes it: all(), and conditions such as rack == 'a', has(gpu) and zone in {'x', 'y'}, with
// && between them. It does not know ||, and the empty text selects everything.
func ParseSelector(text string) (s policy.Selector, err error) {
	if strings.TrimSpace(text) == "" {
		return s, nil
	}
	for part := range strings.SplitSeq(text, "&&") {
		r, ok := condition(strings.TrimSpace(part))
		switch {
		case !ok:
			return policy.Selector{}, &podweft.FieldError{
				Field: "selector", Value: fmt.Sprintf("%q", text), Problem: fmt.Sprintf("has a condition that is not understood: %q", strings.TrimSpace(part)),
				Remedy: "write all(), has(label), label == 'value' or label in {'a', 'b'}, with && between",
			}
		case r.Key != "":
			s.MatchExpressions = append(s.MatchExpressions, r)
		}
	}
	return s, nil
}

// condition reads one condition; that of all() has no key.
func condition(text string) (r policy.Requirement, ok bool) {
	if text == "all()" {
		return r, true
	}
	if m := hasLabel.FindStringSubmatch(text); m != nil {
		r.Key, r.Operator = m[2], policy.Exists
		if m[1] == "!" {
			r.Operator = policy.DoesNotExist
		}
		return r, true
	}
	if m := isValue.FindStringSubmatch(text); m != nil {
		r.Key, r.Operator, r.Values = m[1], policy.In, []string{m[3] + m[4]}
		if m[2] == "!=" {
			r.Operator = policy.NotIn
		}
		return r, true
	}
	m := isOneOf.FindStringSubmatch(text)
	if m == nil {
		return r, false
	}
	r.Key, r.Operator = m[1], policy.In
	if m[2] != "in" {
		r.Operator = policy.NotIn
	}
	for _, q := range quotation.FindAllStringSubmatch(m[3], -1) {
		r.Values = append(r.Values, q[1]+q[2])
	}
	return r, len(r.Values) > 0
}
