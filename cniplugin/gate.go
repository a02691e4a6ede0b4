package cniplugin

import (
	"context"
	"errors"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/node/local"
)

// Gate holds pods back until what concerns them is in force: a gate.Gate of package policy, which waits for the policies that select
// a pod. An Agent that has one lets no ADD return before.
type Gate interface {
	// Attach returns nil when the attachment's pod may start, and [local.ErrTryAgain] when ctx ended before.
	Attach(ctx context.Context, rec local.Record) error
	// Detach forgets attachments.
	Detach(keys ...local.Key)
	// Restore tells of attachments that were there before.
	Restore(records ...local.Record)
}

// remember tells the gate which pods are there, before the cluster tells it anything.
func (a *Agent) remember() error {
	if a.cfg.Gate == nil {
		return nil
	}
	records, problems, err := a.attachments.All("")
	for _, p := range problems {
		a.log.Warn("attachment left out", "err", p)
	}
	a.cfg.Gate.Restore(records...)
	return err
}

// Attach waits for the gate, if there is one.
func (h agentHandler) Attach(ctx context.Context, rec local.Record) error {
	if h.cfg.Gate == nil {
		return nil
	}
	return h.cfg.Gate.Attach(ctx, rec)
}

// leave tells the gate that pods are gone.
func (h agentHandler) leave(keys []local.Key) {
	if h.cfg.Gate != nil {
		h.cfg.Gate.Detach(keys...)
	}
}

// admit asks the agent whether the pod may start, unless it lets all start. A configuration says what becomes of pods while nobody answers:
// with requireAgent they wait.
func (t *task) admit(rec local.Record) error {
	if !t.config.RequireAgent && local.NewClient(socketOf(t.state)).AdmitsAll() {
		return nil
	}
	rec.Delegate = nil // what has thousands of host ports may be longer than an agent listens, whom it does not concern
	attach := func(ctx context.Context, agent *local.Client) error { return agent.Attach(ctx, rec) }
	var starting []error
	if t.config.RequireAgent {
		starting = []error{local.ErrNoAgent} // one that listens and says to try again has waited itself
	}
	err := t.insist(attach, starting...)
	switch {
	case errors.Is(err, local.ErrNoAgent) && !t.config.RequireAgent, err == nil:
		return nil
	case errors.Is(err, local.ErrNoAgent):
		return fail(CodeTryAgain, "the configuration's requireAgent has pods wait for the node's agent, and none is listening at "+
			socketOf(t.state)+": is it running?", err)
	case errors.Is(err, local.ErrTryAgain):
		return fail(CodeTryAgain, "the node's agent does not let the pod start yet", err)
	case errors.Is(err, podweft.ErrInvalid):
		return fail(CodeConfig, "the node's agent cannot read what it is told of the pod", err)
	}
	return t.stranger(err)
}
