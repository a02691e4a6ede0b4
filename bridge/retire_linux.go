package bridge

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nl"
)

// Retire does what Detach does, but for the wait: no packet passes the port any more and the pod can be attached anew, while
// the two links stay, down and under another name, until somebody calls [Attacher.Sweep] or the pod's namespace goes. It is
// for those who detach many, or whose caller is in a hurry; what never calls Sweep should Detach.
func (a *Attacher) Retire(ctx context.Context, p Port) error {
	return a.remove(ctx, p, a.retire)
}

func (a *Attacher) retire(ctx context.Context, have nl.Link) error {
	return a.node.do(ctx, step{
		op: "retire", object: "link " + have.Name, request: func(b *nl.Batch) { b.Retire(have.Index, a.mark) }, fine: unix.ENODEV,
	})
}

// Sweep deletes the links that were retired, in one go, whichever Attacher of the owner did so; the kernel makes it wait once
// for all of them. It finds them without listing what else there is, so that calling it often costs little.
func (a *Attacher) Sweep(ctx context.Context) error {
	return a.node.do(ctx, step{
		op: "delete", object: "retired links of " + a.mark,
		request: func(b *nl.Batch) { b.DeleteGroup(nl.Graveyard(a.mark)) }, fine: unix.ENODEV,
	})
}

// exhume deletes the retired pair whose pod's end is in the way of a new port, and reports whether it was that.
func (a *Attacher) exhume(ctx context.Context, v *veth, pod *pod) (bool, error) {
	peer, err := pod.conn.Link(v.peer.Name)
	if errors.Is(err, nl.ErrNoLink) {
		return true, nil // swept meanwhile
	}
	if err != nil {
		return false, err
	}
	host, err := a.node.conn.LinkAt(peer.Pair)
	if errors.Is(err, nl.ErrNoLink) {
		return false, nil
	}
	if err != nil || host.Pair != peer.Index || host.Alias != nl.RetiredAlias(a.mark) {
		return false, err
	}
	return true, a.delete(ctx, host)
}

// remove takes the pair of the port away, by taking its host end.
func (a *Attacher) remove(ctx context.Context, p Port, take func(context.Context, nl.Link) error) error {
	p = p.withDefaults(a.owner, Bridge{})
	var c checker
	if c.identity(p); c.errs != nil {
		return errors.Join(c.errs...)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	found, err := a.unplug(ctx, a.hostEnd(p), take)
	if !found && err == nil && a.adopt && p.NetNS != "" {
		err = a.pull(ctx, p)
	}
	if err != nil {
		return fmt.Errorf("port %s/%s: %w", p.Container, p.Name, err)
	}
	return nil
}
