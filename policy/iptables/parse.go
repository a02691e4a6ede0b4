package iptables

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// readRules reads what iptables-save -c says of mangle.
func (im *image) readRules(n names, saved []byte) {
	others := 0 // rules of POSTROUTING before ours
	for line := range lines(saved) {
		if name, ok := strings.CutPrefix(line, ":"); ok {
			if name, _, _ = strings.Cut(name, " "); n.ours(name) {
				im.chains[name] = nil
			}
			continue
		}
		count, rest, ok := strings.Cut(line, "] -A ")
		if !ok {
			continue
		}
		chain, text, _ := strings.Cut(rest, " ")
		switch {
		case n.ours(chain):
			r := rule{text: text}
			_, _ = fmt.Sscanf(count, "[%d:%d", &r.count.Packets, &r.count.Bytes)
			im.chains[chain] = append(im.chains[chain], r)
		case chain != hook:
		case leadsTo(text, n.frame(start)):
			im.jumps = append(im.jumps, text)
			im.first = im.first || others == 0
		case !instance.MatchString(text):
			others++
		}
	}
}

// instance is a rule that leads to ours, or to those of another owner: of them it is all the same which comes first.
var instance = regexp.MustCompile(`-j pw[a-z2-7]{4}-` + start + `$`)

func leadsTo(text, chain string) bool {
	return strings.HasSuffix(text, "-j "+chain) || strings.HasSuffix(text, "-g "+chain)
}

// readSets reads what ipset save says.
func (im *image) readSets(n names, saved []byte) {
	for line := range lines(saved) {
		words := strings.Fields(line)
		if len(words) < 3 || !n.ours(words[1]) || len(words[1]) <= versionAt || words[1][len(n.prefix)] != im.digit {
			continue
		}
		switch s := im.sets[words[1]]; {
		case words[0] == "create":
			im.sets[words[1]] = &set{name: words[1], kind: kind(words[2])}
		case words[0] == "add" && s != nil:
			s.elements = append(s.elements, element(words[2]))
		}
	}
}

// element is one as we write it: ipset writes ::0.1.0.0 where we write ::1:0.
func element(text string) string {
	end := strings.IndexAny(text, ",/")
	if end < 0 {
		end = len(text)
	}
	if a, err := netip.ParseAddr(text[:end]); err == nil {
		return a.String() + text[end:]
	}
	return text
}

func lines(text []byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
			if !yield(s.Text()) {
				return
			}
		}
	}
}
