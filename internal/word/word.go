// Package word says which names the SDK's objects may have.
package word

// Valid reports whether s is one to most letters, digits, dots, dashes and underscores of ASCII, a letter or digit first. CNI wants
// that of networks and containers, and it is safe in a link's alias, a table's name and a path.
//
// It is written out because plugins live a few milliseconds, of which a regular expression would take one to be compiled.
func Valid(s string, most int) bool {
	for i, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '_' && c != '.' && c != '-') {
			return false
		}
	}
	return s != "" && len(s) <= most
}
