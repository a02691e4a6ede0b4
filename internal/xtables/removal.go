package xtables

import (
	"slices"
	"strings"
)

// Removal are the commands, each the arguments of a [Run], that remove chains of these names from a table, with the rules that lead to
// them. rules is what -S has said of the table. There are none where it has no such chain.
func Removal(table, rules string, names ...string) (commands [][]string) {
	var there []string
	var lines [][]string
	for line := range strings.Lines(rules) {
		words := Words(line)
		lines = append(lines, words)
		if len(words) == 2 && words[0] == "-N" && slices.Contains(names, words[1]) {
			there = append(there, words[1])
		}
	}
	add := func(command ...string) { commands = append(commands, append([]string{"-t", table}, command...)) }
	for _, words := range lines {
		n := len(words)
		if n > 3 && words[0] == "-A" && !slices.Contains(there, words[1]) && words[n-2] == "-j" && slices.Contains(there, words[n-1]) {
			add(append([]string{"-D"}, words[1:]...)...)
		}
	}
	for _, command := range []string{"-F", "-X"} {
		for _, name := range there {
			add(command, name)
		}
	}
	return commands
}
