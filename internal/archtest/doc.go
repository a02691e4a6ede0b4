// Package archtest holds the shape of the house: which package may import which, and how much each one brings into the
// program of somebody who imports it alone. It has only tests. The rules are the tables in house_test.go; a package that
// is not in them fails the test, so that a new one begins with the question of where it belongs.
//
// It reads the sources and asks `go list`; it does not judge how the code in a package is written (the linters do), nor which
// versions a user gets (the outside consumer in hack does).
package archtest
