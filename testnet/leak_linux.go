package testnet

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// grace is how long what is ending anyway may take: goroutines that were told to stop, threads, killed processes.
const grace = 2 * time.Second

// cleanUp ends nodes with the test, which fails if anything else still holds one then, or if a goroutine that the test
// started still runs. Other tests may run at the same time: only what is surely this test's is held against it.
func cleanUp(t TB, close func() error, nodes ...*Node) {
	t.Helper()
	watchGoroutines(t)
	t.Cleanup(func() {
		t.Helper()
		for _, n := range nodes {
			if left := settled(n.holders); len(left) > 0 {
				t.Errorf("testnet: left behind in %s:\n%s", n.Name, list(left))
			}
		}
		if err := close(); err != nil {
			t.Errorf("testnet: %v", err)
		}
	})
}

// watchGoroutines labels the test's goroutine, once, before its first node: what it starts inherits the label, and was to
// have ended when the test's last cleanup runs, which is this one.
func watchGoroutines(t TB) {
	t.Helper()
	owner := fmt.Sprintf("%s %p", t.Name(), t)
	if len(goroutinesOf(owner)) > 0 {
		return
	}
	label(owner)
	t.Cleanup(func() {
		t.Helper()
		label(nobody)
		if left := settled(func() []string { return goroutinesOf(owner) }); len(left) > 0 {
			t.Errorf("testnet: left behind:\n%s", list(left))
		}
	})
}

// looks is how often at least we look before something counts as left behind: a machine that stood still has used up the grace, and
// let nobody end meanwhile.
const looks = 50

// settled calls look until it returns nothing or the grace has passed.
func settled(look func() []string) []string {
	began := time.Now()
	for n := 1; ; n++ {
		left := look()
		if len(left) == 0 {
			return nil
		}
		if n >= looks && time.Since(began) > grace {
			return left
		}
		<-time.After(5 * time.Millisecond)
	}
}

// list is one line for each, indented.
func list(things []string) string {
	return "\t" + strings.Join(slices.Sorted(slices.Values(things)), "\n\t")
}
