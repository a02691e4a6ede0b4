package archtest

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

const table = "internal/archtest/house_test.go"

// problems says, in sentences, where the sources, and the modules that they need by directory, break the rules.
func (h house) problems(sources []source, needs map[string][]string) []string {
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	for _, s := range sources {
		_, r, ok := h.roomOf(s.dir)
		if !ok {
			say("%s is a new package: add it to rooms in %s, with the packages it may import and the modules it may bring", s.dir, table)
			continue
		}
		for _, imported := range s.imports {
			if dir, own := directory(imported); own && !h.allowed(s.dir, dir, r.may) {
				say("%s imports %s: of the house it may import %s (rooms in %s)", s.dir, dir, listOf(r.may), table)
			}
			for heavy, by := range h.importers {
				if within(imported, heavy) && !slices.Contains(by, s.dir) {
					say("%s imports %s: that is for %s (importers in %s)", s.dir, imported, listOf(by), table)
				}
			}
		}
		for _, used := range slices.Sorted(maps.Keys(s.names)) {
			if !slices.Contains(h.users[used], s.dir) {
				say("%s uses %s (%s): that is for %s (users in %s)", s.dir, used, strings.Join(s.names[used], ", "), listOf(h.users[used]), table)
			}
		}
		for _, needed := range needs[s.dir] {
			if !slices.Contains(r.brings, needed) {
				say("%s brings the module %s into every program that imports it: it may bring %s (rooms in %s)", s.dir, needed, listOf(r.brings), table)
			}
		}
	}
	return found
}

// roomOf finds the package's row: its own, or that of the tree it is in.
func (h house) roomOf(dir string) (string, room, bool) {
	if r, ok := h.rooms[dir]; ok {
		return dir, r, true
	}
	for parent := dir; parent != root; parent = path.Dir(parent) {
		if r, ok := h.rooms[parent+"/..."]; ok {
			return parent + "/...", r, true
		}
	}
	return "", room{}, false
}

// allowed reports whether the package at from may import the one at to.
func (h house) allowed(from, to string, may []string) bool {
	if tree, _, ok := h.roomOf(from); ok && strings.HasSuffix(tree, "/...") && within(to, strings.TrimSuffix(tree, "/...")) {
		return true // its own tree
	}
	return slices.ContainsFunc(may, func(pattern string) bool {
		if pattern == public {
			return !slices.Contains(strings.Split(to, "/"), "internal")
		}
		if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
			return within(to, tree)
		}
		return to == pattern
	})
}

// within reports whether path is parent or below it.
func within(path, parent string) bool {
	return path == parent || strings.HasPrefix(path, parent+"/")
}

func listOf(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}
