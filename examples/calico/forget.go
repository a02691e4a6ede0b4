package calico

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/roster"
)

// forget takes another node out of the store and frees its blocks, on the word of whoever calls that it is gone for good. The kernel is
// left alone: what leads to that node goes from the others when they hear of it.
func (o *Options) forget(ctx context.Context, out io.Writer) error {
	cfg := o.Config
	switch o.gone {
	case "":
		return &podweft.FieldError{Field: "NODE", Problem: "is missing", Remedy: "name the node: podweft-calico forget NODE"}
	case cfg.Node:
		return &podweft.FieldError{
			Field: "NODE", Value: o.gone, Problem: "is this one", Remedy: "end its agent and use cleanup, which clears its kernel too",
		}
	}
	nodes, err := cfg.Nodes.Nodes(ctx)
	if err != nil {
		return err
	}
	// First its record, in one step with the question whether it lives. Should the rest fail it can be done again, and else the
	// collector does it.
	err = o.strike(ctx)
	_, known := nodes.Node(o.gone)
	if err == nil && o.cluster != nil && !o.Force { // also one that is not known: an earlier call may have been ended while it waited
		err = o.hearken(ctx)
	}
	if err != nil {
		return fmt.Errorf("forget %s: %w", o.gone, err)
	}
	if known {
		_, _ = fmt.Fprintf(out, "- node %s\n", o.gone)
	}
	freed, err := block.Free(ctx, cfg.Blocks, o.gone)
	for _, s := range freed {
		_, _ = fmt.Fprintf(out, "- block %s\n", s)
	}
	if err == nil && !known && len(freed) == 0 {
		err = fmt.Errorf("forget %s: nobody knows a node of that name, and it has no block", o.gone)
	}
	return err
}

// strike takes the node off the roster.
func (o *Options) strike(ctx context.Context) error {
	if o.Force {
		return o.Config.Nodes.Forget(ctx, o.gone)
	}
	forgotten, err := o.Config.Nodes.ForgetDead(ctx, o.gone)
	switch {
	case err != nil || forgotten:
		return err
	case o.cluster != nil:
		return errors.New("the cluster counts it as alive: delete its Node, or try again when its kubelet has been silent for a minute, " +
			"or say --force")
	}
	return errors.New("it counts as alive: end its agent and try again in a minute, or say --force")
}

// hearken waits as long as an agent takes to join again. In Kubernetes a node counts as dead when its kubelet is silent, whose agent may
// live, and pods with it.
func (o *Options) hearken(ctx context.Context) error {
	const enough = roster.DefaultTTL / 2 // a Member joins three times in each
	o.Config.Logger.InfoContext(ctx, "waiting whether its agent joins again", "node", o.gone, "for", enough)
	for until := time.Now().Add(enough); time.Now().Before(until); {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(relook):
		}
		nodes, err := o.Config.Nodes.Nodes(ctx)
		if err != nil {
			return err
		}
		if _, back := nodes.Node(o.gone); back {
			return errors.New("its agent lives, though its kubelet is silent: end it first, or say --force")
		}
	}
	return nil
}
