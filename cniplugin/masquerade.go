package cniplugin

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/flock"
	"github.com/podweft/podweft/ipam"
	"github.com/podweft/podweft/nat"
)

// masquerade gives the node's pods its address when they talk to the world: one table for all pods of the network, which
// the first of them makes. The others ask no more than whether it is still that table, unless they have addresses of no range
// that the configuration names: what they need then depends on which others there are.
func (t *task) masquerade(n *network, addresses []given) error {
	driver, err := nat.New(nat.Config{Owner: t.config.Name, NetNS: t.cfg.NetNS, Logger: t.log})
	if err != nil {
		return err
	}
	defer driver.Close()
	records := masqueradeRecords{t.state + "/masquerade", t.records.Boot()}
	kept := func(spec nat.Spec) bool {
		stamp, err := driver.Stamp(t.ctx)
		return err == nil && records.has(t.config.Name, stamp, spec)
	}
	spec := n.masqueraded()
	if !slices.ContainsFunc(addresses, func(a given) bool { return !covers(spec.Masquerade, a.prefix) }) && kept(spec) {
		return nil
	}
	return locked(t.ctx, t.cfg.LockWait, t.state+"/masquerade.lock", func() error {
		spec, err := t.recordedToo(spec)
		if err != nil || kept(spec) {
			return err
		}
		if err := records.put(t.config.Name, "", spec); err != nil { // first: an agent makes the table what is recorded
			return fail(CodeIO, "masquerading cannot be recorded", err)
		}
		if _, err := driver.Apply(t.ctx, spec); err != nil {
			return err
		}
		stamp, err := driver.Stamp(t.ctx)
		if err == nil {
			err = records.put(t.config.Name, stamp, spec)
		}
		if err != nil {
			t.log.WarnContext(t.ctx, "masquerading will be looked at again for the next pod", "err", err)
		}
		return nil
	})
}

// checkMasquerade reports what masquerading lacks. What else is in the table may be for pods that went.
func (t *task) checkMasquerade(n *network) error {
	if !n.masq {
		return nil
	}
	driver, err := nat.New(nat.Config{Owner: t.config.Name, NetNS: t.cfg.NetNS, Logger: t.log})
	if err != nil {
		return err
	}
	defer driver.Close()
	spec, err := t.recordedToo(n.masqueraded())
	if err != nil {
		return err
	}
	plan, err := driver.Plan(t.ctx, spec)
	plan = slices.DeleteFunc(plan, func(c podweft.Change) bool { return c.Op == podweft.Delete })
	if err == nil && len(plan) > 0 {
		err = fmt.Errorf("masquerading lacks %s", plan[0].Object)
	}
	return err
}

// masqueraded is what the configuration says: all ranges, for the table is every pod's.
func (n *network) masqueraded() nat.Spec {
	spec := nat.Spec{Exempt: slices.Clone(n.exempt)}
	for _, set := range n.sets {
		for _, r := range set {
			spec.Masquerade = append(spec.Masquerade, r.Prefix)
		}
	}
	for _, r := range n.routes {
		if p := r.Prefix; p.Bits() > 0 { // towards the cluster
			spec.Exempt = append(spec.Exempt, p)
		}
	}
	return spec
}

// recordedToo adds the addresses of the network's pods that are in no range: others give them, or the runtime names other ranges
// for each pod. Each pod is recorded before it gets here, so whoever has the lock last knows all.
func (t *task) recordedToo(spec nat.Spec) (nat.Spec, error) {
	records, problems, err := t.records.All(t.config.Name)
	if err != nil {
		return spec, fail(CodeIO, "the records of attachments", err)
	}
	for _, p := range problems {
		t.log.WarnContext(t.ctx, "record left out", "err", p)
	}
	for _, rec := range records {
		for _, a := range rec.Addresses {
			if !covers(spec.Masquerade, a) {
				spec.Masquerade = append(spec.Masquerade, a.Masked())
			}
		}
	}
	slices.SortFunc(spec.Masquerade, netip.Prefix.Compare) // so that the same pods are the same text
	return spec, nil
}

// covers reports whether one of the prefixes has the address of a pod.
func covers(prefixes []netip.Prefix, pod netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(pod.Addr()) })
}

// lockWait is how long a lock is waited for that another process holds; a runtime waits for minutes.
const lockWait = 20 * time.Second

// locked runs fn while no other process holds the file's lock: two that made the same rules at once would make them twice.
func locked(ctx context.Context, within time.Duration, path string, fn func() error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	patient, cancel := context.WithTimeoutCause(ctx, within, ipam.ErrLocked)
	defer cancel()
	if err := flock.Lock(patient, f); err != nil {
		return err
	}
	return fn()
}
