package cniplugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/podweft/podweft/node/local"
)

const (
	// agentPatience is how long an agent may take for what takes it a few milliseconds, and we could do ourselves.
	agentPatience = 2 * time.Second
	// agentLimit is how long it may take for what only it can do. It answers sooner, if only to try again (MaxWait of
	// local.ServerConfig), unless it hangs.
	agentLimit = 15 * time.Second
	// agentAgain is when an agent that was away is looked for again.
	agentAgain = 20 * time.Millisecond
)

// ask has the node's agent do something. One that is ended before it answers, and one that was started in its place, are one agent to
// us: whatever it is asked may be asked twice. Where there is no socket that is known before the question is put into words, which takes
// a process that asks once in its life ten times as long as to look.
func (t *task) ask(within time.Duration, what func(ctx context.Context, agent *local.Client) error) error {
	if _, err := os.Stat(socketOf(t.state)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", local.ErrNoAgent, err)
	}
	ctx, cancel := context.WithTimeout(t.ctx, within)
	defer cancel()
	agent := local.NewClient(socketOf(t.state))
	for {
		err := what(ctx, agent)
		if !errors.Is(err, local.ErrHungUp) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(agentAgain):
		}
	}
}

// insist is ask for what an ADD needs the agent for: it waits for one that is starting, which does not listen yet, or has yet to reach
// what it needs itself.
func (t *task) insist(what func(ctx context.Context, agent *local.Client) error, starting ...error) error {
	err := t.ask(agentLimit, what)
	is := func(kind error) bool { return errors.Is(err, kind) }
	if slices.ContainsFunc(starting, is) {
		t.comes(func() bool {
			err = t.ask(agentLimit, what)
			return !slices.ContainsFunc(starting, is)
		})
	}
	return err
}

// comes reports whether what an ADD lacks is there before it has waited as long as it may.
func (t *task) comes(there func() bool) bool {
	if t.command != "ADD" || t.cfg.AgentWait <= 0 {
		return false
	}
	over := time.After(t.cfg.AgentWait)
	for {
		select {
		case <-t.ctx.Done():
			return false
		case <-over:
			return false
		case <-time.After(agentAgain):
		}
		if there() {
			return true
		}
	}
}

// dismiss tells the agent that the attachment is gone, and what it claimed and was admitted for. One that is away finds out by the
// record, which goes too.
func (t *task) dismiss() error {
	err := t.ask(agentLimit, func(ctx context.Context, agent *local.Client) error { return agent.Detach(ctx, t.key()) })
	if errors.Is(err, local.ErrNoAgent) {
		return nil
	}
	return t.unanswered(err)
}

// viaAgent leaves what remains of a pod to the agent, and reports whether there is one that will see to it.
func (t *task) viaAgent() bool {
	err := t.ask(agentPatience, func(ctx context.Context, agent *local.Client) error { return agent.Detach(ctx, t.key()) })
	if err != nil && !errors.Is(err, local.ErrNoAgent) {
		t.log.WarnContext(t.ctx, "the agent does not help", "err", err)
	}
	return err == nil
}
