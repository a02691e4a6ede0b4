package nat

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
)

func planOf(steps []step) podweft.Plan {
	var plan podweft.Plan
	for _, s := range steps {
		plan = append(plan, s.Change)
	}
	return plan
}

// failures joins the errors of a plan, each once: in a transaction many changes fail for one reason.
func failures(plan podweft.Plan) error {
	seen := map[error]bool{}
	var errs []error
	for _, err := range plan.Failed() {
		if !seen[err] {
			seen[err] = true
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// hold leaves out what the loop holds back: an element alone, anything else with all the rest, which is nothing without it.
func hold(pass podweft.Pass, steps []step) {
	all := false
	for i := range steps {
		if s := &steps[i]; s.Err == nil && pass.Held(s.Object) {
			s.Err = podweft.ErrHeld
			all = all || !s.alone()
		}
	}
	if all {
		fail(steps, podweft.ErrHeld)
	}
}

// fail gives err to all steps that have none.
func fail(steps []step, err error) {
	for i := range steps {
		if steps[i].Err == nil {
			steps[i].Err = err
		}
	}
}

// write makes the changes that have no error yet, and leaves an error in those that could not be made. Elements that the
// kernel refuses are left out and the rest is tried again; when it refuses anything else, nothing of it can be made.
func (k *keeper) write(ctx context.Context, steps []step) {
	for {
		var b nft.Batch
		for _, s := range steps {
			if s.Err == nil && s.add != nil {
				s.add(&b)
			}
		}
		err := k.conn.Load(ctx, &b)
		if err == nil {
			return
		}
		var refused *nft.TransactionError
		if !errors.As(err, &refused) {
			fail(steps, err)
			return
		}
		if !blame(steps, refused.Failed) {
			fail(steps, explain(refused.Failed[0]))
			return
		}
	}
}

// blame gives each failure to the element it names. It reports false, and does nothing, if a failure names anything else.
func blame(steps []step, failed []*podweft.OpError) bool {
	at := map[string]int{}
	for i, s := range steps {
		if s.Err == nil && s.alone() {
			at[s.Object.ID()] = i
		}
	}
	for _, f := range failed {
		if _, ok := at[f.Object.ID()]; !ok {
			return false
		}
	}
	for _, f := range failed {
		steps[at[f.Object.ID()]].Err = f
	}
	return true
}

// explain adds what a kernel without nat in the inet family, or without masquerade, means by its errno.
func explain(f *podweft.OpError) *podweft.OpError {
	var lacks string
	switch f.Object.(type) {
	case nft.Chain:
		lacks = "nat in the inet family came with Linux 5.2"
	case nft.Rule:
		lacks = "masquerade, or another expression of the rule, is missing"
	default:
		return f
	}
	if !errors.Is(f.Err, unix.ENOENT) && !errors.Is(f.Err, unix.EOPNOTSUPP) {
		return f
	}
	return &podweft.OpError{Op: f.Op, Object: f.Object, Err: fmt.Errorf("%w: %s: %w", podweft.ErrNotSupported, lacks, f.Err)}
}
