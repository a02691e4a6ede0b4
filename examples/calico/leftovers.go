package calico

import (
	"context"

	"github.com/podweft/podweft/adopt"
)

// nameLeftovers says what Calico or flannel has left on the node.
func (a *Agent) nameLeftovers(ctx context.Context) {
	found, err := adopt.Leftovers(ctx, a.cfg.NetNS, prefixes(a.cfg.Pools)...)
	if err != nil && ctx.Err() == nil {
		a.log.WarnContext(ctx, "what others have left on this node is not known", "err", err)
	}
	var names []string
	for _, l := range found {
		a.log.WarnContext(ctx, "left alone", "by", l.By, "object", l.Object)
		names = append(names, l.String())
	}
	a.mu.Lock()
	a.status.Leftovers = names
	a.mu.Unlock()
}
