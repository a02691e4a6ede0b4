//go:build race

package sabotage

import "time"

// Limit is how soon after a sabotage traffic has to be back. The race detector takes our own code 5 to 15 times as long, and what the
// stopwatch compares it with, system calls, hardly longer: with it the bound is wider.
const Limit = 5 * time.Second
