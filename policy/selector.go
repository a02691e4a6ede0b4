package policy

import (
	"maps"
	"slices"
	"strings"
)

// Selector matches labels, as a LabelSelector of Kubernetes does. The zero Selector matches everything.
type Selector struct {
	// MatchLabels must all be there with exactly these values.
	MatchLabels map[string]string
	// MatchExpressions must all hold.
	MatchExpressions []Requirement
}

// Requirement is one condition on one label.
type Requirement struct {
	Key      string
	Operator Operator
	Values   []string
}

// Operator is how a [Requirement] compares.
type Operator string

// The operators of Kubernetes. The negative ones hold for objects that do not have the label at all.
const (
	In           Operator = "In"           // the label is there and its value is one of Values
	NotIn        Operator = "NotIn"        // the label is not there, or its value is none of Values
	Exists       Operator = "Exists"       // the label is there, with any value
	DoesNotExist Operator = "DoesNotExist" // the label is not there
)

// Matches reports whether s matches labels. A Requirement that makes no sense holds for nothing.
func (s Selector) Matches(labels map[string]string) bool {
	for key, want := range s.MatchLabels {
		if value, ok := labels[key]; !ok || value != want {
			return false
		}
	}
	for _, r := range s.MatchExpressions {
		if !r.holds(labels) {
			return false
		}
	}
	return true
}

func (r Requirement) holds(labels map[string]string) bool {
	value, ok := labels[r.Key]
	switch r.Operator {
	case In:
		return ok && slices.Contains(r.Values, value)
	case NotIn:
		return len(r.Values) > 0 && (!ok || !slices.Contains(r.Values, value))
	case Exists:
		return ok
	case DoesNotExist:
		return !ok
	}
	return false
}

func (s Selector) isZero() bool { return len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0 }

// String writes s as kubectl does, "app=web,tier in (a,b),!legacy", in an order of its own: two valid Selectors that list the
// same conditions have the same text. The zero Selector's is empty.
func (s Selector) String() string {
	if len(s.MatchLabels) == 1 && len(s.MatchExpressions) == 0 { // as most are
		for key, value := range s.MatchLabels {
			return key + "=" + value
		}
	}
	parts := make([]string, 0, len(s.MatchLabels)+len(s.MatchExpressions))
	for key, value := range s.MatchLabels {
		parts = append(parts, key+"="+value)
	}
	for _, r := range s.MatchExpressions {
		parts = append(parts, r.String())
	}
	slices.Sort(parts)
	return strings.Join(slices.Compact(parts), ",")
}

// String writes r as kubectl does: "tier notin (a,b)".
func (r Requirement) String() string {
	values := slices.Compact(slices.Sorted(slices.Values(r.Values)))
	switch r.Operator {
	case Exists:
		return r.Key
	case DoesNotExist:
		return "!" + r.Key
	case In:
		if len(values) == 1 {
			return r.Key + "=" + values[0]
		}
	}
	return r.Key + " " + strings.ToLower(string(r.Operator)) + " (" + strings.Join(values, ",") + ")"
}

// label is one label of an object.
type label struct{ key, value string }

// pivots returns labels of which an object must have one for s to match it, as few as s offers; nil when s demands none.
func (s Selector) pivots() []label {
	if len(s.MatchLabels) > 0 {
		key := slices.Min(slices.Collect(maps.Keys(s.MatchLabels)))
		return []label{{key, s.MatchLabels[key]}}
	}
	var fewest []label
	for _, r := range s.MatchExpressions {
		if r.Operator != In || fewest != nil && len(r.Values) >= len(fewest) {
			continue
		}
		fewest = nil
		for _, value := range slices.Compact(slices.Sorted(slices.Values(r.Values))) {
			fewest = append(fewest, label{r.Key, value})
		}
	}
	return fewest
}
