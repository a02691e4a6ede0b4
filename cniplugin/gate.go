package cniplugin

import (
	"context"
	"errors"
	"os"

	"github.com/podweft/podweft/node/local"
)

// Gate holds pods back until what concerns them is in force: a gate.Gate of package policy/gate, most likely.
type Gate interface {
	// Attach returns nil when it is in force for this attachment, and until then waits, as long as ctx allows.
	Attach(ctx context.Context, rec local.Record) error
	// Detach forgets attachments, whose addresses are about to be free.
	Detach(keys ...local.Key)
}

// admitted returns when the agent lets the pod go. An ADD that returned before would let a process run whose policies are not there
// yet. Where no agent listens nobody waits: see policy/gate for what is to be closed then.
func (t *task) admitted(rec local.Record) error {
	if _, err := os.Stat(socketOf(t.state)); err != nil {
		return nil //nolint:nilerr // no agent
	}
	err := local.NewClient(socketOf(t.state)).Attach(t.ctx, rec)
	switch {
	case err == nil, errors.Is(err, local.ErrNoAgent):
		return nil
	case errors.Is(err, local.ErrTryAgain):
		return fail(CodeTryAgain, "what concerns the pod is not in force yet", err)
	}
	return err
}

// Attach lets the attachment go when the Gate does.
func (h agentHandler) Attach(ctx context.Context, rec local.Record) error {
	if h.cfg.Gate == nil {
		return nil
	}
	return h.cfg.Gate.Attach(ctx, rec)
}
