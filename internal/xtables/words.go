package xtables

import "strings"

// Words are the arguments that a line of iptables -S stands for. The program writes a text that is more than one word in double
// quotes, and there a backslash before a quote or a backslash (xtables_save_string in libxtables/xtables.c); comments are such.
func Words(line string) (words []string) {
	var word strings.Builder
	begun, quoted, escaped := false, false, false
	for _, b := range []byte(line) {
		switch {
		case escaped:
			escaped = false
			word.WriteByte(b)
		case quoted && b == '\\':
			escaped = true
		case b == '"':
			begun, quoted = true, !quoted
		case !quoted && strings.IndexByte(" \t\r\n", b) >= 0:
			if begun {
				words = append(words, word.String())
			}
			word.Reset()
			begun = false
		default:
			begun = true
			word.WriteByte(b)
		}
	}
	if begun {
		words = append(words, word.String())
	}
	return words
}
