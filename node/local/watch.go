package local

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/podweft/podweft/internal/dirwatch"
)

// Watch calls changed once when it has begun to listen, and then whenever a record may have come, gone or changed, until ctx
// ends; it then returns nil. It says no more than that: read [Records.All] and compare. Calls do not overlap.
//
// Where the kernel gives no notifications, changed is called every second.
func (r *Records) Watch(ctx context.Context, changed func()) error {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("watch records: %w", err)
	}
	dirwatch.Run(ctx, r.dir, func(name string) bool { return strings.HasPrefix(name, draft) }, changed)
	return nil
}
