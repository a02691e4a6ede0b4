package iptables

import (
	"strings"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/enforce"
)

// image is what there is, or should be, of one family.
type image struct {
	family
	jumps  []string // rules of POSTROUTING that lead to us
	first  bool     // and begins with, if there is one
	chains map[string][]rule
	sets   map[string]*set // where it should be by their names, where it is by those of their versions
}

func newImage(f family) *image {
	return &image{family: f, chains: map[string][]rule{}, sets: map[string]*set{}}
}

// rule is a rule of a chain.
type rule struct {
	text    string   // as iptables-save writes it, behind the chain's name
	sets    []string // names in text of which versions are to be decided
	meaning meaning
	count   policy.Count
}

// meaning is what a rule of ours counts.
type meaning = enforce.Meaning

// with returns the rule's text with these versions of its sets.
func (r rule) with(versions map[string]version) string {
	text := r.text
	for _, s := range r.sets {
		text = strings.ReplaceAll(text, s, versions[s].of(s))
	}
	return text
}

// set is an ipset.
type set struct {
	name     string
	kind     kind
	use      use
	about    string // for people
	elements []string
}

// kind is what the elements of a set are.
type kind string

const (
	ipKind     kind = "hash:ip"
	netKind    kind = "hash:net"
	ipPortKind kind = "hash:ip,port"
)

// use is what rules do with packets that are in a set.
type use uint8

const (
	accepts    use = 1 << iota // allow what is in it, and so forbid what is not
	denies                     // the other way round
	passes                     // ask others, who may do either
	classifies                 // ask the policies of a class
	judges                     // ask for a class
	knows                      // spare it what is closed
)

// live returns the versions of sets that rules lead to. Rules that lead to two of one set are none that we have left behind.
func (im *image) live(n names) map[string]version {
	versions := map[string]version{}
	for _, rules := range im.chains {
		for _, r := range rules {
			for _, name := range setsIn(r.text) {
				if n.ours(name) {
					s, v := unversioned(name)
					versions[s] = v
				}
			}
		}
	}
	return versions
}

// setsIn returns the names of sets in a rule's text. What it has in quotes are other people's words, such as the name of a policy.
func setsIn(text string) (list []string) {
	const word = "--match-set "
	for text != "" {
		plain, rest, _ := strings.Cut(text, `"`)
		for {
			_, after, ok := strings.Cut(plain, word)
			if !ok {
				break
			}
			name, more, _ := strings.Cut(after, " ")
			list, plain = append(list, name), more
		}
		_, text, _ = strings.Cut(rest, `"`)
	}
	return list
}

// prune forgets the sets that no rule leads to.
func (im *image) prune() {
	led := map[string]bool{}
	for _, rules := range im.chains {
		for _, r := range rules {
			for _, s := range r.sets {
				led[s] = true
			}
		}
	}
	for name := range im.sets {
		if !led[name] {
			delete(im.sets, name)
		}
	}
}
