package cniplugin

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/ipam"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/node/local"
)

// Addresses that the node's agent gives: those of blocks, say, which a node claims as it needs them, and which a process that
// lives a few milliseconds is not to ask a store for.

// agentIPAM is the type of a configuration's ipam that has the agent give the addresses.
const agentIPAM = "podweft-agent"

// Allocator gives an Agent addresses for pods: a [block.Allocator] or an [ipam.Pool].
type Allocator interface {
	Allocate(ctx context.Context, owner ipam.Owner, want ...netip.Addr) (ipam.Allocation, error)
	Release(ctx context.Context, owner ipam.Owner) error
	Collect(ctx context.Context, dead func(context.Context, []ipam.Allocation) ([]ipam.Owner, error)) ([]ipam.Allocation, error)
}

// PodAllocator is an Allocator to which it matters whose an address is to be: of several pools, some are for the pods of a few
// namespaces. An Agent asks it so, with what the runtime has said of the pod, which may be nothing.
type PodAllocator interface {
	Allocator
	AllocateFor(ctx context.Context, pod local.Pod, owner ipam.Owner, want ...netip.Addr) (ipam.Allocation, error)
}

// collectEvery is how often an Agent looks for addresses of attachments that nobody has recorded. A plugin records one within
// milliseconds after it has claimed.
const collectEvery = time.Minute

// claimed reports whether the agent gives the addresses.
func (c *config) claimed() bool { return c.IPAM.Type == agentIPAM }

// claim asks the agent.
func (t *task) claim() (g grant, err error) {
	want, err := t.config.wanted(t.args)
	if err != nil {
		return g, err
	}
	var all []local.Address
	err = t.insist(func(ctx context.Context, agent *local.Client) (err error) {
		all, err = agent.Claim(ctx, local.Claim{Key: t.key(), Want: want, Pod: t.pod()})
		return err
	}, local.ErrNoAgent, local.ErrTryAgain)
	if err != nil {
		return g, t.unanswered(err)
	}
	for _, a := range all {
		g.addresses = append(g.addresses, given{a.Prefix, a.Gateway})
	}
	return g, nil
}

// claimable says whether the agent could serve an ADD.
func (t *task) claimable() error {
	var s local.Status
	err := t.ask(agentLimit, func(ctx context.Context, agent *local.Client) (err error) {
		s, err = agent.Status(ctx)
		return err
	})
	if err != nil {
		return notReady(t.unanswered(err))
	}
	if !s.Ready {
		return &Error{Code: CodeNotReady, Msg: "the node's agent is not ready: " + s.Problem}
	}
	return nil
}

// unanswered gives the agent's error its code.
func (t *task) unanswered(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, local.ErrNoAgent):
		return fail(CodeTryAgain, "the node's agent gives the addresses, and none is listening at "+socketOf(t.state)+": is it running?", err)
	case errors.Is(err, local.ErrTryAgain):
		return fail(CodeTryAgain, "the node's agent cannot give or free an address now", err)
	case errors.Is(err, local.ErrExhausted):
		return fail(CodeExhausted, "no address is left for this node", err)
	case errors.Is(err, podweft.ErrInvalid):
		return fail(CodeTaken, "an address that was asked for cannot be given", err)
	}
	return t.stranger(err)
}

// stranger says what is to be done about a node's agent that this plugin cannot talk to.
func (t *task) stranger(err error) error {
	switch {
	case errors.Is(err, local.ErrVersion):
		return fail(CodeOther, "the node's agent and this plugin do not understand each other: install one version of both, and remove "+
			socketOf(t.state)+" if it is no agent's", err)
	case errors.Is(err, local.ErrForbidden):
		return fail(CodeOther, "the node's agent runs as another user than this plugin: run both as root, and remove "+
			socketOf(t.state)+" if it is no agent's", err)
	}
	return err
}

// Claim gives an attachment its addresses, where this agent has any to give.
func (h agentHandler) Claim(ctx context.Context, c local.Claim) ([]local.Address, error) {
	if h.cfg.Allocator == nil {
		return nil, &podweft.FieldError{
			Field: "ipam.type", Value: agentIPAM, Problem: "is not served by this node's agent, which gives no addresses", Remedy: "leave it out",
		}
	}
	held, err := h.allocate(ctx, c)
	switch {
	case errors.Is(err, block.ErrExhausted), errors.Is(err, ipam.ErrExhausted):
		return nil, errors.Join(local.ErrExhausted, err)
	case errors.Is(err, block.ErrTaken), errors.Is(err, ipam.ErrTaken):
		return nil, &podweft.FieldError{Field: "ips", Value: c.Want, Problem: "cannot be given: " + err.Error()}
	case err != nil && !errors.Is(err, podweft.ErrInvalid):
		return nil, errors.Join(local.ErrTryAgain, err) // the store is away, as a rule
	}
	var all []local.Address
	for _, a := range held.Addresses {
		all = append(all, local.Address{Prefix: a.Prefix, Gateway: a.Gateway})
	}
	return all, err
}

func (a *Agent) allocate(ctx context.Context, c local.Claim) (ipam.Allocation, error) {
	if from, ok := a.cfg.Allocator.(PodAllocator); ok {
		return from.AllocateFor(ctx, c.Pod, ipam.Owner(c.Key), c.Want...)
	}
	return a.cfg.Allocator.Allocate(ctx, ipam.Owner(c.Key), c.Want...)
}

// release gives back what attachments hold.
func (a *Agent) release(ctx context.Context, keys []local.Key) error {
	if a.cfg.Allocator == nil {
		return nil
	}
	var errs []error
	for _, k := range keys {
		errs = append(errs, a.cfg.Allocator.Release(ctx, ipam.Owner(k)))
	}
	return errors.Join(errs...)
}

// collect frees the addresses of attachments without a record: of plugins that were killed, or found no agent to tell that a pod
// had gone. One that has no record yet is under way, so it takes two looks.
func (a *Agent) collect(ctx context.Context, records *local.Records, every time.Duration) error {
	doubted := map[ipam.Owner]bool{}
	for tick := time.NewTicker(every); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return nil
		case <-tick.C:
		}
		freed, err := a.cfg.Allocator.Collect(ctx, func(_ context.Context, held []ipam.Allocation) ([]ipam.Owner, error) {
			unknown := map[ipam.Owner]bool{}
			var dead []ipam.Owner
			for _, h := range held {
				if _, err := records.Get(local.Key(h.Owner)); !errors.Is(err, local.ErrNoRecord) {
					continue
				}
				if unknown[h.Owner] = true; doubted[h.Owner] {
					dead = append(dead, h.Owner)
				}
			}
			doubted = unknown
			return dead, nil
		})
		if err != nil && ctx.Err() == nil {
			a.log.WarnContext(ctx, "addresses of pods that went stay", "err", err)
		}
		for _, f := range freed {
			a.log.DebugContext(ctx, "address collected", "container", f.Owner.Container, "network", f.Owner.Network)
		}
	}
}
