package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/podweft/podweft/policy"
)

func one(key string, op policy.Operator, values ...string) policy.Selector {
	return policy.Selector{MatchExpressions: []policy.Requirement{{Key: key, Operator: op, Values: values}}}
}

func TestSelectorMatches(t *testing.T) {
	type l = map[string]string
	tests := []struct {
		name     string
		selector policy.Selector
		yes, no  []l
	}{
		{"the zero Selector", policy.Selector{}, []l{nil, {}, {"a": "x"}}, nil},
		{"one label", *labelled("a", "x"), []l{{"a": "x"}, {"a": "x", "b": "y"}}, []l{nil, {"a": "y"}, {"b": "x"}, {"A": "x"}, {"a": "X"}}},
		{"two labels", *labelled("a", "x", "b", "y"), []l{{"a": "x", "b": "y"}}, []l{{"a": "x"}, {"b": "y"}, {"a": "x", "b": "x"}}},
		{"an empty value", *labelled("a", ""), []l{{"a": ""}}, []l{nil, {"a": "x"}, {"b": ""}}},
		{"In", one("a", policy.In, "x", "y"), []l{{"a": "x"}, {"a": "y"}}, []l{nil, {"a": "z"}, {"b": "x"}}},
		{"NotIn", one("a", policy.NotIn, "x", "y"), []l{nil, {"a": "z"}, {"b": "x"}}, []l{{"a": "x"}, {"a": "y"}}},
		{"Exists", one("a", policy.Exists), []l{{"a": ""}, {"a": "x"}}, []l{nil, {"b": "x"}}},
		{"DoesNotExist", one("a", policy.DoesNotExist), []l{nil, {"b": "x"}}, []l{{"a": ""}, {"a": "x"}}},
		{"labels and expressions", policy.Selector{MatchLabels: l{"a": "x"}, MatchExpressions: one("b", policy.NotIn, "y").MatchExpressions},
			[]l{{"a": "x"}, {"a": "x", "b": "z"}}, []l{{"a": "x", "b": "y"}, {"b": "z"}}},
		{"In without values", one("a", policy.In), nil, []l{nil, {"a": ""}, {"a": "x"}}},
		{"NotIn without values", one("a", policy.NotIn), nil, []l{nil, {"a": ""}, {"a": "x"}}},
		{"an unknown operator", one("a", "Gt", "1"), nil, []l{nil, {"a": "2"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, labels := range tt.yes {
				assert.True(t, tt.selector.Matches(labels), "%v", labels)
			}
			for _, labels := range tt.no {
				assert.False(t, tt.selector.Matches(labels), "%v", labels)
			}
		})
	}
}

func TestSelectorString(t *testing.T) {
	tests := []struct {
		name     string
		selector policy.Selector
		want     string
	}{
		{"the zero Selector", policy.Selector{}, ""},
		{"labels in the order of their keys", *labelled("b", "y", "a", "x"), "a=x,b=y"},
		{"an empty value", *labelled("a", ""), "a="},
		{"In of one value is that label", one("a", policy.In, "x"), "a=x"},
		{"In, sorted and once", one("a", policy.In, "y", "x", "y"), "a in (x,y)"},
		{"NotIn of one value", one("a", policy.NotIn, "x"), "a notin (x)"},
		{"Exists and DoesNotExist", policy.Selector{MatchExpressions: append(one("b", policy.DoesNotExist).MatchExpressions,
			one("a", policy.Exists).MatchExpressions...)}, "!b,a"},
		{"a condition twice", policy.Selector{MatchLabels: map[string]string{"a": "x"}, MatchExpressions: one("a", policy.In, "x").MatchExpressions}, "a=x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, tt.selector.String()) })
	}
}

// TestSelectorText: sets are shared by the text of their selectors, so one text must not stand for two meanings.
func TestSelectorText(t *testing.T) {
	seen := map[string]policy.Selector{}
	rapid.Check(t, func(t *rapid.T) {
		r := random(t)
		s, pod := r.Policy(0).Pods, r.Pod(0)
		text := s.String()
		if other, ok := seen[text]; ok && other.Matches(pod.Labels) != s.Matches(pod.Labels) {
			t.Fatalf("%q is both %+v and %+v", text, other, s)
		}
		seen[text] = s
	})
}
