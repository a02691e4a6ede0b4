package iptables

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/podweft/podweft"
)

// change is what makes one family as it should be: three scripts, run in their order, and what they do.
type change struct {
	family
	plan   podweft.Plan
	swept  int             // where in the plan is what after does
	before strings.Builder // for ipset: what rules will lead to, or what moves
	rules  strings.Builder // for iptables-restore
	after  strings.Builder // for ipset: what no rule leads to any more
	next   *image          // what there is when all is done
}

// differ compares what there is with what should be.
type differ struct {
	names      names
	have, want *image
	versions   map[string]version // of the sets that are wanted
	change     *change
}

func compare(n names, have, want *image) *change {
	d := &differ{names: n, have: have, want: want, versions: map[string]version{}, change: &change{family: want.family}}
	fresh, changed := d.sets()
	list, gradual := d.moves(changed)
	if gradual && !d.rulesDiffer() {
		for _, m := range list {
			d.move(m)
		}
	} else {
		for _, s := range changed {
			d.replace(s)
		}
	}
	for _, s := range fresh {
		d.create(s)
	}
	d.chains()
	d.sweep()
	d.change.next = d.done()
	return d.change
}

func (d *differ) note(op podweft.Op, object, note string, args ...any) {
	d.change.plan = append(d.change.plan, podweft.Change{Op: op, Object: podweft.Named(object), Note: fmt.Sprintf(note, args...)})
}

// sets decides the versions of all sets, and returns those that no rule leads to yet and those that have other elements.
func (d *differ) sets() (fresh, changed []*set) {
	live := d.have.live(d.names)
	for _, name := range slices.Sorted(maps.Keys(d.want.sets)) {
		s, v := d.want.sets[name], live[name]
		have := d.have.sets[v.of(name)]
		switch {
		case v != 'a' && v != 'b' || have == nil || have.kind != s.kind:
			d.versions[name] = 'a'
			if v == 'a' {
				d.versions[name] = 'b' // of another kind, and in use
			}
			fresh = append(fresh, s)
		default:
			d.versions[name] = v
			if len(moves(have, s)) > 0 {
				changed = append(changed, s)
			}
		}
	}
	return fresh, changed
}

// moves are those of all sets that have other elements.
func (d *differ) moves(changed []*set) ([]move, bool) {
	var list []move
	for _, s := range changed {
		list = append(list, moves(d.have.sets[d.versions[s.name].of(s.name)], s)...)
	}
	return gradually(list)
}

func (d *differ) move(m move) {
	name := d.versions[m.set.name].of(m.set.name)
	op, word := podweft.Delete, "del"
	if m.add {
		op, word = podweft.Create, "add"
	}
	fmt.Fprintf(&d.change.before, "%s %s %s\n", word, name, m.element)
	d.note(op, fmt.Sprintf("element %s %s", name, m.element), "%s", m.set.about)
}

// replace makes a set anew, which rules then lead to.
func (d *differ) replace(s *set) {
	d.versions[s.name] = d.versions[s.name].other()
	d.fill(s)
	d.note(podweft.Update, "set "+d.versions[s.name].of(s.name), "%s: %d", s.about, len(s.elements))
}

func (d *differ) create(s *set) {
	d.fill(s)
	d.note(podweft.Create, fmt.Sprintf("set %s %s", d.versions[s.name].of(s.name), s.kind), "%s: %d", s.about, len(s.elements))
}

// maxElements is what ipset makes of it where one does not say how many elements a set may have, times 16. It takes no memory.
const maxElements = 1 << 20

// fill makes the version of s that nothing leads to, if there is one, what s is.
func (d *differ) fill(s *set) {
	name, b := d.versions[s.name].of(s.name), &d.change.before
	left := d.have.sets[name]
	if left != nil && left.kind != s.kind {
		fmt.Fprintf(b, "destroy %s\n", name)
		left = nil
	}
	if left == nil {
		fmt.Fprintf(b, "create %s %s family %s hashsize 64 maxelem %d\n", name, s.kind, d.want.inet, maxElements)
	} else {
		fmt.Fprintf(b, "flush %s\n", name)
	}
	for _, e := range s.elements {
		fmt.Fprintf(b, "add %s %s\n", name, e)
	}
}

// rulesDiffer reports whether any rule is to be written, with versions as they are decided so far.
func (d *differ) rulesDiffer() bool {
	return len(d.differing())+len(d.gone()) > 0 || !d.hooked()
}

// hooked reports whether packets come by our rules, before all others and once.
func (d *differ) hooked() bool {
	return d.have.first == d.want.first && slices.Equal(d.have.jumps, d.want.jumps)
}

// differing are the chains that are not what they should be.
func (d *differ) differing() (list []string) {
	for _, name := range slices.Sorted(maps.Keys(d.want.chains)) {
		have, ok := d.have.chains[name]
		if !ok || !slices.EqualFunc(have, d.want.chains[name], func(h, w rule) bool { return h.text == w.with(d.versions) }) {
			list = append(list, name)
		}
	}
	return list
}

// gone are the chains that should not be.
func (d *differ) gone() (list []string) {
	for _, name := range slices.Sorted(maps.Keys(d.have.chains)) {
		if _, ok := d.want.chains[name]; !ok {
			list = append(list, name)
		}
	}
	return list
}

// chains writes what iptables-restore is to do: all or nothing.
func (d *differ) chains() {
	if !d.rulesDiffer() {
		return
	}
	differing, gone, b := d.differing(), d.gone(), &d.change.rules
	b.WriteString("*mangle\n")
	for _, name := range differing {
		fmt.Fprintf(b, ":%s - [0:0]\n", name)
		if _, ok := d.have.chains[name]; !ok {
			d.note(podweft.Create, d.object("chain", name), "")
		}
	}
	for _, name := range differing {
		for _, r := range d.want.chains[name] {
			fmt.Fprintf(b, "-A %s %s\n", name, r.with(d.versions))
		}
		d.noteRules(name)
	}
	if !d.hooked() {
		d.hook()
	}
	for _, name := range gone {
		fmt.Fprintf(b, "-F %s\n", name)
	}
	for _, name := range gone {
		fmt.Fprintf(b, "-X %s\n", name)
		d.note(podweft.Delete, d.object("chain", name), "")
	}
	b.WriteString("COMMIT\n")
}

func (d *differ) object(kind, text string) string {
	return fmt.Sprintf("%s %s mangle %s", kind, d.want.word, text)
}

// noteRules says which rules come and go, whatever the versions of their sets.
func (d *differ) noteRules(chain string) {
	count := map[string]int{}
	for _, r := range d.have.chains[chain] {
		count[d.plain(r)]++
	}
	for _, r := range d.want.chains[chain] {
		if count[r.text]--; count[r.text] < 0 {
			d.note(podweft.Create, d.object("rule", chain+" "+r.text), "")
		}
	}
	for _, r := range d.have.chains[chain] {
		if text := d.plain(r); count[text] > 0 {
			count[text]--
			d.note(podweft.Delete, d.object("rule", chain+" "+text), "")
		}
	}
}

// plain is the text of a rule that is there, without versions of our sets.
func (d *differ) plain(r rule) string {
	text := r.text
	for _, name := range setsIn(text) {
		if d.names.ours(name) {
			s, _ := unversioned(name)
			text = strings.ReplaceAll(text, name, s)
		}
	}
	return text
}

func (d *differ) hook() {
	for _, jump := range d.have.jumps {
		fmt.Fprintf(&d.change.rules, "-D %s %s\n", hook, jump)
		if !d.want.first {
			d.note(podweft.Delete, d.object("rule", hook+" "+jump), "")
		}
	}
	for _, jump := range d.want.jumps {
		fmt.Fprintf(&d.change.rules, "-I %s 1 %s\n", hook, jump)
		d.note(podweft.Create, d.object("rule", hook+" "+jump), "before all others")
	}
}

// sweep destroys what no rule leads to any more. That a set has got a second name is no news.
func (d *differ) sweep() {
	d.change.swept = len(d.change.plan)
	for _, name := range slices.Sorted(maps.Keys(d.have.sets)) {
		s, v := unversioned(name)
		now, wanted := d.versions[s]
		if wanted && v == now {
			continue
		}
		fmt.Fprintf(&d.change.after, "destroy %s\n", name)
		if replaced := wanted && v == now.other() && len(d.change.plan) > 0; !replaced {
			d.note(podweft.Delete, "set "+name, "")
		}
	}
}

// done is what there is after the change.
func (d *differ) done() *image {
	next := newImage(d.want.family)
	next.first, next.jumps = d.want.first, d.want.jumps
	for name, rules := range d.want.chains {
		list := make([]rule, len(rules))
		for i, r := range rules {
			list[i] = rule{text: r.with(d.versions)}
		}
		next.chains[name] = list
	}
	for name, s := range d.want.sets {
		next.sets[d.versions[name].of(name)] = s
	}
	return next
}
