package dirwatch

import (
	"context"
	"time"
)

// lookInterval is how often Run has its caller look where the kernel gives no notifications.
const lookInterval = time.Second

// Run calls changed when it has begun to listen, and then whenever a file in dir may have changed, but for those that ignore
// says yes to, until ctx ends. Calls do not overlap. Where the kernel gives no notifications there is one every second.
func Run(ctx context.Context, dir string, ignore func(name string) bool, changed func()) {
	hints, stop, err := Watch(dir, ignore)
	defer stop()
	var tick <-chan time.Time
	if err != nil {
		ticker := time.NewTicker(lookInterval)
		defer ticker.Stop()
		tick = ticker.C
	}
	for ctx.Err() == nil {
		changed()
		select {
		case <-ctx.Done():
		case <-hints:
		case <-tick:
		}
	}
}
