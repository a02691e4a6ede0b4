package bridge

import (
	"context"
	"fmt"

	"github.com/podweft/podweft/internal/cable"
	"github.com/podweft/podweft/internal/nl"
)

// Retire does what Detach does, but for the wait: no packet passes the port any more and the pod can be attached anew, while
// the two links stay, down and under another name, until somebody calls [Attacher.Sweep] or the pod's namespace goes. It is
// for those who detach many, or whose caller is in a hurry; what never calls Sweep should Detach.
func (a *Attacher) Retire(ctx context.Context, p Port) error {
	return a.remove(ctx, p, a.node.Retire)
}

// Sweep deletes the links that were retired, in one go, whichever Attacher of the owner did so; the kernel makes it wait once
// for all of them. It finds them without listing what else there is, so that calling it often costs little.
func (a *Attacher) Sweep(ctx context.Context) error { return a.node.Sweep(ctx) }

// remove takes the pair of the port away, by taking its host end.
func (a *Attacher) remove(ctx context.Context, p Port, take func(context.Context, nl.Link) error) error {
	p = p.withDefaults(a.node.Owner, Bridge{})
	var f cable.Fields
	if f.ID(p.id()); f.Err() != nil {
		return f.Err()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	found, err := a.node.Unplug(ctx, a.node.HostEnd(p.id(), 0), take)
	if !found && err == nil && a.adopt && p.NetNS != "" {
		err = a.pull(ctx, p)
	}
	if err != nil {
		return fmt.Errorf("port %s/%s: %w", p.Container, p.Name, err)
	}
	return nil
}
