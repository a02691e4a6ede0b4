package cniplugin

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/podweft/podweft/ipam"
)

// gc frees what belongs to no attachment that the runtime still knows. It goes on past what fails, and reports all.
func (t *task) gc() error {
	live := t.config.live()
	holders, err := t.holders()
	if errors.Is(err, ipam.ErrLocked) {
		return err // all that follows would wait as long, for each attachment
	}
	errs := []error{err, t.collectLinks(live, holders)} // all at once: the kernel waits whenever it has deleted one
	records, problems, err := t.records.All(t.config.Name)
	errs = append(errs, err, t.records.Sweep())
	for _, p := range problems {
		t.log.WarnContext(t.ctx, "record left out", "err", p)
	}
	for _, rec := range records {
		if live[attachment{rec.Container, rec.Interface}] {
			continue
		}
		if err := t.of(rec.Container, rec.Interface).del(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", rec.Key(), err))
		}
	}
	errs = append(errs, t.collectPorts(), t.collectReference())
	if t.delegatedIPAM() { // an agent collects what has no record any more
		errs = append(errs, t.runPlugin(t.config.IPAM.Type, "GC", t.config.raw))
	}
	if t.stores() {
		errs = append(errs, t.collectAddresses(live))
	}
	return errors.Join(errs...)
}

// holders are the attachments that hold addresses. An ADD that was killed may have left a link that bears no mark yet, and no
// record: its address, which it got first, tells of it.
func (t *task) holders() (all []attachment, err error) {
	if !t.stores() {
		return nil, nil
	}
	pool, err := t.pool(nil)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	held, err := pool.All(t.ctx)
	for _, a := range held {
		if a.Owner.Network == t.config.Name {
			all = append(all, attachment{a.Owner.Container, a.Owner.Interface})
		}
	}
	return all, err
}

// collectLinks removes the ports of attachments that are gone, recorded or not.
func (t *task) collectLinks(live map[attachment]bool, suspects []attachment) error {
	w, err := t.wiring()
	if err != nil {
		return err
	}
	defer w.Close()
	return w.collect(live, suspects)
}

// collectAddresses releases the addresses of attachments that are gone.
func (t *task) collectAddresses(live map[attachment]bool) error {
	pool, err := t.pool(nil)
	if err != nil {
		return err
	}
	defer pool.Close()
	freed, err := pool.Collect(t.ctx, func(_ context.Context, held []ipam.Allocation) (dead []ipam.Owner, err error) {
		before := theirs{task: t, live: live} // what had a record has been removed
		for _, a := range held {
			one := attachment{a.Owner.Container, a.Owner.Interface}
			if a.Owner.Network == t.config.Name && !live[one] {
				dead = append(dead, a.Owner)
				before.gone = append(before.gone, tenant{one, func() []netip.Addr { return addressesOf(a) }})
			}
		}
		if len(dead) > 0 {
			_, err = before.remove()
		}
		return dead, err
	})
	errs := []error{err}
	for _, a := range freed {
		errs = append(errs, t.of(a.Owner.Container, a.Owner.Interface).forgetHostLocal(a))
	}
	return errors.Join(errs...)
}

func addressesOf(a ipam.Allocation) (all []netip.Addr) {
	for _, held := range a.Addresses {
		all = append(all, held.Prefix.Addr())
	}
	return all
}

// live are the attachments that the runtime knows. None at all means that all are gone.
func (c *config) live() map[attachment]bool {
	live := map[attachment]bool{}
	for _, a := range append(c.Valid, c.Attachments...) {
		live[a] = true
	}
	return live
}

// of is the call as it would be about another attachment, whose namespace may be another's by now: it is not looked into.
func (t *task) of(container, ifname string) *task {
	one := *t
	one.container, one.ifname, one.netns = container, ifname, ""
	return &one
}

// collectPorts closes the host ports of attachments that are gone.
func (t *task) collectPorts() error {
	live := t.config.live()
	records, err := t.portRecords()
	if err != nil {
		return err
	}
	all, _, err := records.All(t.config.Name)
	errs := []error{err, records.Sweep()}
	for _, rec := range all {
		if !live[attachment{rec.Container, rec.Interface}] {
			errs = append(errs, t.of(rec.Container, rec.Interface).unpublish())
		}
	}
	return errors.Join(errs...)
}
