package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// style is how a piece of text looks on a terminal: the parameter of an SGR sequence (ECMA-48, 8.3.117).
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
)

// printer writes for people. Errors of writing are not its business: who reads no more of a tour needs no word about it.
type printer struct {
	w     io.Writer
	color bool
}

// newPrinter writes to standard output, which belongs to the document when one was asked for.
func newPrinter(o options) printer {
	if o.json {
		return printer{w: io.Discard}
	}
	return printer{w: os.Stdout, color: o.color}
}

func (p printer) paint(s style, text string) string {
	if !p.color || s == plain || text == "" {
		return text
	}
	on, off := "\x1b["+string(s)+"m", "\x1b[0m"
	return on + strings.ReplaceAll(text, "\n", off+"\n"+on) + off // a line at a time, for pagers and indents
}

func (p printer) printf(format string, args ...any) { _, _ = fmt.Fprintf(p.w, format, args...) }

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// cell is one of a table.
type cell struct {
	text  string
	style style
}

// table is rows of cells; the first row is the heading.
type table struct {
	rows [][]cell
}

func (t *table) head(names ...string) {
	row := make([]cell, len(names))
	for i, n := range names {
		row[i] = cell{strings.ToUpper(n), dim}
	}
	t.rows = append(t.rows, row)
}

func (t *table) row(cells ...cell) { t.rows = append(t.rows, cells) }

// print lines the columns up. (text/tabwriter would count the colours.)
func (t *table) print(p printer, indent string) {
	var width []int
	for _, row := range t.rows {
		for i, c := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, row := range t.rows {
		var line strings.Builder
		for i, c := range row {
			line.WriteString(p.paint(c.style, c.text))
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(c.text)+2))
			}
		}
		p.printf("%s\n", strings.TrimRight(indent+line.String(), " "))
	}
}

// list prints commands and what they are for.
func list(p printer, indent string, entries [][2]string) {
	var t table
	for _, e := range entries {
		t.row(cell{e[0], cyan}, cell{e[1], plain})
	}
	t.print(p, indent)
}
