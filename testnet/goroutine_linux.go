package testnet

import (
	"context"
	"fmt"
	"runtime/pprof"
	"strings"
)

// ownerLabel is the profiler label that says for whom a goroutine works. The runtime hands labels on to each goroutine
// that a goroutine starts, which is what makes them tell one test's goroutines from another's.
const ownerLabel = "testnet"

// nobody owns goroutines that are not to be held against anyone.
const nobody = ""

// label sets the calling goroutine's owner.
func label(owner string) {
	ctx := context.Background()
	if owner != nobody {
		ctx = pprof.WithLabels(ctx, pprof.Labels(ownerLabel, owner))
	}
	pprof.SetGoroutineLabels(ctx)
}

// goroutinesOf describes the goroutines that work for owner, each by where it is and what it was in before.
func goroutinesOf(owner string) []string {
	return goroutines(fmt.Sprintf("%q:%q", ownerLabel, owner))
}

// ownedGoroutines describes the goroutines that work for anyone.
func ownedGoroutines() []string { return goroutines(fmt.Sprintf("%q:", ownerLabel)) }

func goroutines(labelled string) []string {
	var profile strings.Builder
	// Text with labels (debug=1): for each stack "N @ 0x... 0x...", "# labels: {...}" and a line for each frame.
	_ = pprof.Lookup("goroutine").WriteTo(&profile, 1) // a Builder takes everything
	var found []string
	for stack := range strings.SplitSeq(profile.String(), "\n\n") {
		count, rest, _ := strings.Cut(stack, " @ ")
		count = count[strings.LastIndex(count, "\n")+1:] // before the first stack stands the total
		_, rest, _ = strings.Cut(rest, "\n")
		labels, frames, _ := strings.Cut(rest, "\n")
		if strings.HasPrefix(labels, "# labels: ") && strings.Contains(labels, labelled) && !lasting(frames) {
			found = append(found, count+" goroutine(s) in "+strings.Join(functions(frames), ", called by "))
		}
	}
	return found
}

// lasting reports whether it is a goroutine that the standard library starts once per process.
func lasting(frames string) bool { return strings.Contains(frames, "os/signal.loop") }

// functions are the innermost functions of a stack, as many as a reader needs.
func functions(frames string) []string {
	var names []string
	for frame := range strings.Lines(frames) {
		fields := strings.Fields(frame) // "#	0x47b0c5	main.f+0x65	/src/main.go:9"
		if len(fields) < 4 || strings.HasPrefix(fields[2], "runtime.") || strings.HasPrefix(fields[2], "internal/") {
			continue
		}
		name, _, _ := strings.Cut(fields[2], "+0x")
		names = append(names, fmt.Sprintf("%s (%s)", name, fields[3]))
	}
	if len(names) == 0 {
		return []string{"a function that has not begun"}
	}
	return names[:min(len(names), 6)]
}
