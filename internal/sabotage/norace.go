//go:build !race

package sabotage

import "time"

// Limit is how soon after a sabotage traffic has to be back.
const Limit = time.Second
