package iptables

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestGradually(t *testing.T) {
	peers, ports := &set{name: "peers", kind: ipKind, use: accepts}, &set{name: "ports", kind: ipPortKind, use: accepts}
	other, denied := &set{name: "other", kind: ipKind, use: accepts}, &set{name: "denied", kind: ipKind, use: denies}
	class, judged := &set{name: "class", kind: ipKind, use: classifies}, &set{name: "judged", kind: ipKind, use: judges}
	known, passed := &set{name: "known", kind: ipKind, use: knows}, &set{name: "passed", kind: ipKind, use: accepts | passes}
	const a, b = "10.0.0.1", "10.0.0.2"
	tests := []struct {
		name string
		list []move
		want string // none where there is no order
	}{
		{"nothing", nil, ""},
		{"all let more through", []move{{peers, a, true}, {other, b, true}, {denied, b, false}}, "+peers +other -denied"},
		{"all let fewer through", []move{{peers, a, false}, {denied, b, true}}, "-peers +denied"},
		{"a pod comes", []move{{peers, a, true}, {ports, a + ",tcp:80", true}, {known, a, true}, {judged, a, true}, {class, a, true}},
			"+class +judged +known +peers +ports"},
		{"a pod goes", []move{{class, a, false}, {peers, a, false}, {judged, a, false}, {known, a, false}}, "-peers -known -judged -class"},
		{"a pod has other labels", []move{{peers, a, false}, {other, a, true}}, "+other -peers"},
		{"two pods have other labels", []move{{peers, a, false}, {other, b, true}}, "none"},
		{"another class", []move{{class, a, true}, {class, a, false}}, "none"},
		{"other labels and ports", []move{{peers, a, false}, {ports, a + ",tcp:80", true}}, "none"},
		{"two pods come", []move{{peers, a, true}, {class, b, true}}, "none"},
		{"what is denied comes", []move{{class, a, true}, {denied, a, true}}, "none"},
		{"what is passed on", []move{{passed, a, true}}, "none"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			list, ok := gradually(test.list)
			var got []string
			for _, m := range list {
				got = append(got, map[bool]string{true: "+", false: "-"}[m.add]+m.set.name)
			}
			if !ok {
				got = []string{"none"}
			}
			assert.Equal(t, test.want, strings.Join(got, " "))
		})
	}
}
