package main

import (
	"strings"
)

// mostColumns is how many pods fit side by side; the picture of more shows nodes.
const mostColumns = 24

// picture is the matrix as a drawing: who sends is at the left, who answers at the top. A field is a pair of pods, or of
// nodes, in all families.
type picture struct {
	names  []string // of rows, and of columns but for the last, which is the outside
	fields []tally
}

// tally counts the pings of a field.
type tally struct{ sent, failed int }

func (m *matrix) picture() picture {
	name := func(of *pod) string { return of.name }
	if m.senders() > mostColumns {
		name = func(of *pod) string { return of.on.machine.Name }
	}
	var pic picture
	index := map[string]int{}
	for _, p := range m.pings {
		if _, known := index[name(p.from)]; !known {
			index[name(p.from)] = len(pic.names)
			pic.names = append(pic.names, name(p.from))
		}
	}
	pic.fields = make([]tally, len(pic.names)*(len(pic.names)+1))
	for _, p := range m.pings {
		column := len(pic.names)
		if p.to != nil {
			column = index[name(p.to)]
		}
		f := pic.at(index[name(p.from)], column)
		f.sent++
		if p.err != nil {
			f.failed++
		}
	}
	return pic
}

func (m *matrix) senders() int {
	seen := map[*pod]bool{}
	for _, p := range m.pings {
		seen[p.from] = true
	}
	return len(seen)
}

func (pic picture) at(row, column int) *tally { return &pic.fields[row*(len(pic.names)+1)+column] }

func (pic picture) print(p printer, indent string) {
	t := table{rows: [][]cell{{{}}}}
	for _, n := range pic.names {
		t.rows[0] = append(t.rows[0], cell{shorten(n), dim})
	}
	t.rows[0] = append(t.rows[0], cell{outside, dim})
	for i, n := range pic.names {
		row := []cell{{n, plain}}
		for j := range len(pic.names) + 1 {
			row = append(row, pic.at(i, j).mark())
		}
		t.row(row...)
	}
	t.print(p, indent)
	p.printf("\n%s%s\n", indent, p.paint(dim, "● all answered   ✗ not all   · nothing sent"))
}

func (f tally) mark() cell {
	switch {
	case f.sent == 0:
		return cell{"·", dim}
	case f.failed > 0:
		return cell{"✗", red}
	}
	return cell{"●", green}
}

// shorten takes away what all names begin with: above its column, "pod1a" is "1a" and "node2" is "2".
func shorten(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(name, "pod"), "node")
}
