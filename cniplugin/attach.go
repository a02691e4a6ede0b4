package cniplugin

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"syscall"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/ipam"
	"github.com/podweft/podweft/node/local"
)

// ownNetNS is the calling thread's.
const ownNetNS = "/proc/thread-self/ns/net"

// add attaches a pod. What it did is undone when a later step fails, in reverse order.
func (t *task) add() (*types100.Result, error) {
	c := t.config
	if err := t.enterable(); err != nil {
		return nil, err
	}
	if err := t.unattached(); err != nil {
		return nil, err
	}
	n, err := c.network()
	if err != nil {
		return nil, err
	}
	mac, err := c.mac(t.args)
	if err != nil {
		return nil, err
	}
	before, err := c.previous()
	if err != nil {
		return nil, err
	}
	ports, err := c.toPublish()
	if err != nil {
		return nil, err
	}

	var undo []func() error
	give, err := t.allocate(n)
	if err != nil {
		return nil, err
	}
	undo = append(undo, t.release)
	result, rec, err := t.plug(n, give.addresses, mac)
	if err != nil {
		return nil, stepsDown(err, undo)
	}
	undo = append(undo, t.unplug)
	if give.delegated || t.delegated {
		rec.Delegate = c.raw
	}
	rec.Claimed = c.claimed()
	if err := t.note(rec); err != nil {
		return nil, stepsDown(err, undo)
	}
	undo = append(undo, func() error { return t.records.Remove(t.key()) })
	if err := t.admit(rec); err != nil {
		return nil, stepsDown(err, append(undo, t.dismiss))
	}
	undo = append(undo, t.dismiss)
	if n.masq {
		if err := t.masquerade(n, give.addresses); err != nil {
			return nil, stepsDown(err, undo)
		}
	}
	if len(ports) > 0 {
		if err := t.publish(ports, give.addresses); err != nil {
			return nil, stepsDown(err, undo)
		}
	}
	undo = append(undo, t.unpublish)
	if result.DNS, err = c.names(); err != nil {
		return nil, stepsDown(err, undo)
	}
	if result.DNS.IsEmpty() {
		result.DNS = give.dns
	}
	return behind(before, result), nil
}

// enterable checks the pod's namespace before anything is done for it.
func (t *task) enterable() error {
	there, err := os.Stat(t.netns)
	if err != nil {
		return fail(CodeContainer, "CNI_NETNS: the pod's network namespace is not there", err)
	}
	own := t.cfg.NetNS
	if own == "" {
		own = ownNetNS
	}
	if here, err := os.Stat(own); err == nil && os.SameFile(here, there) {
		return &Error{Code: CodeNetNS, Msg: fmt.Sprintf("CNI_NETNS: %s is the node's own network namespace: give the pod's", t.netns)}
	}
	return nil
}

// unattached refuses a second ADD. One that was killed has left no record, and is completed.
func (t *task) unattached() error {
	_, err := t.records.Get(t.key())
	if errors.Is(err, local.ErrNoRecord) {
		return nil
	}
	if errors.Is(err, local.ErrUnread) {
		return err
	}
	if err != nil {
		t.log.WarnContext(t.ctx, "record left out", "err", err)
		return nil // damaged: what follows writes it anew
	}
	return &Error{Code: CodeConflict, Msg: fmt.Sprintf("%s is attached already: DEL it first", t.key())}
}

// grant is what the pod got from whoever gives addresses.
type grant struct {
	addresses []given
	dns       dns
	delegated bool // by another program
}

func (t *task) owner() ipam.Owner {
	return ipam.Owner{Network: t.config.Name, Container: t.container, Interface: t.ifname}
}

// allocate gets the pod its addresses.
func (t *task) allocate(n *network) (g grant, err error) {
	switch {
	case t.config.claimed():
		return t.claim()
	case !t.config.builtinIPAM():
		return t.allocateElsewhere(n)
	}
	want, err := t.config.wanted(t.args)
	if err != nil {
		return g, err
	}
	pool, err := t.pool(n)
	if err != nil {
		return g, err
	}
	defer pool.Close()
	if err := t.takeOver(pool); err != nil {
		return g, err
	}
	held, err := pool.Allocate(t.ctx, t.owner(), want...)
	if err != nil {
		return g, err
	}
	for _, a := range held.Addresses {
		g.addresses = append(g.addresses, given{a.Prefix, a.Gateway})
	}
	for _, r := range slices.Concat(pool.Ranges()...) {
		n.gateways = append(n.gateways, netip.PrefixFrom(r.Gateway, r.Prefix.Bits()))
	}
	return g, nil
}

// pool opens the network's address store; without n it only looks up and releases.
func (t *task) pool(n *network) (*ipam.Pool, error) {
	cfg := ipam.Config{Path: t.store(), BootID: t.cfg.BootID, Patience: t.cfg.LockWait, Logger: t.log}
	if n != nil {
		cfg.Sets, cfg.Reserved = n.sets, n.reserved
	}
	return ipam.Open(cfg)
}

// store is the file of the network's addresses.
func (t *task) store() string { return t.state + "/ipam/" + t.config.Name }

// stores reports whether the network has such a file, which only an ADD makes: a disk that is full or read-only is no reason to keep
// what was never there. Where the configuration has others give the addresses by now, pods of before may hold some of it.
func (t *task) stores() bool {
	_, err := os.Stat(t.store())
	return !errors.Is(err, fs.ErrNotExist)
}

// release gives back what the attachment holds, wherever that is: an ADD that was killed has not recorded who gave it.
func (t *task) release() error {
	var errs []error
	switch {
	case t.config.claimed():
		errs = append(errs, t.dismiss())
	case t.delegatedIPAM():
		errs = append(errs, t.releaseElsewhere())
	}
	switch {
	case t.stores():
		errs = append(errs, t.releaseStored())
	case t.config.builtinIPAM():
		errs = append(errs, t.releaseFromHostLocal())
	}
	return errors.Join(errs...)
}

func (t *task) releaseStored() error {
	pool, err := t.pool(nil)
	if err != nil {
		return err
	}
	defer pool.Close()
	held, err := pool.Lookup(t.ctx, t.owner())
	if errors.Is(err, ipam.ErrNotFound) {
		return t.releaseFromHostLocal()
	}
	if err != nil {
		return err
	}
	if err := pool.Release(t.ctx, t.owner()); err != nil {
		return err
	}
	return t.forgetHostLocal(held)
}

// record is that of the call's attachment, but for what comes of it.
func (t *task) record() local.Record {
	return local.Record{
		Network: t.config.Name, Container: t.container, Interface: t.ifname, NetNS: t.netns, Pod: t.pod(), Lease: t.config.lease,
	}
}

// pod is what the orchestrator says of it.
func (t *task) pod() local.Pod {
	return local.Pod{Namespace: t.args[podNamespace], Name: t.args[podName], UID: t.args[podUID]}
}

// note writes the record.
func (t *task) note(rec local.Record) error {
	if err := t.records.Put(rec); err != nil {
		return fail(CodeIO, "the attachment cannot be recorded", err)
	}
	return nil
}

// plug makes the pod's port.
func (t *task) plug(n *network, addresses []given, mac mac) (*types100.Result, local.Record, error) {
	rec := t.record()
	if !mac.IsZero() {
		rec.MAC = mac.String()
	}
	for _, a := range addresses {
		rec.Addresses = append(rec.Addresses, a.prefix)
	}
	w, err := t.wiring()
	if err != nil {
		return nil, rec, err
	}
	defer w.Close()
	result, hostName, err := w.attach(n, addresses, mac)
	rec.HostName = hostName
	return result, rec, err
}

func (t *task) unplug() error {
	w, err := t.wiring()
	if err != nil {
		return err
	}
	defer w.Close()
	return w.detach()
}

// del removes everything that an ADD has made, from the node's own records: the namespace, the configuration's ranges and
// prevResult may be gone. What fails leaves the record, for the DEL that comes again.
func (t *task) del() error {
	rec, err := t.records.Get(t.key())
	if errors.Is(err, local.ErrUnread) {
		return err // it may say who else did part of the ADD
	}
	if err != nil { // there is none, or none that makes sense
		err = t.leave(t.forgetReference)
	} else if t = t.asAdded(rec); t.delegated {
		err = errors.Join(t.unpublish(), t.runPlugin(t.config.Type, "DEL", t.config.raw))
	} else {
		err = t.leave()
	}
	if err != nil {
		return err
	}
	return t.records.Remove(t.key())
}

// leave takes the pod's link and whatever else leads to it away, and then its address: else the pod that got that next would share it.
func (t *task) leave(also ...func() error) error {
	for _, do := range append(append([]func() error{t.part}, also...), t.release) {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// asAdded is the call with the configuration by which other programs did their part of the ADD, and with what gave the addresses. That of
// the call may name others by now, or some where we did all ourselves. One that has the agent give addresses stays: release looks in our
// own store too.
func (t *task) asAdded(rec local.Record) *task {
	one := *t
	gave := func(kind string) *task {
		mine := *t.config
		mine.IPAM.Type = kind
		one.config = &mine
		return &one
	}
	switch {
	case rec.Claimed:
		return gave(agentIPAM)
	case len(rec.Delegate) > 0:
		c, err := parseConfig(rec.Delegate)
		if err != nil {
			return &one
		}
		delegated := t.call.Type == "flannel" && !inProcess(c.Type)
		kind, now := c.IPAM.Type, t.config.IPAM.Type
		if delegated {
			kind, now = c.Type, t.config.Type
		}
		if _, err := t.find(kind); err != nil && kind != now {
			t.log.WarnContext(t.ctx, "the program of the ADD is gone, and what it keeps of the pod stays", "err", err)
			return &one
		}
		one.config, one.delegated = c, delegated
	case t.delegatedIPAM():
		return gave("")
	}
	return &one
}

// part takes the pod's host ports and link away. Where an agent runs, the kernel makes it wait, and not us.
func (t *task) part() error {
	published, err := t.published()
	if err != nil {
		return err
	}
	if _, err := os.Stat(socketOf(t.state)); err != nil {
		return errors.Join(t.closePublished(published), t.unplug())
	}
	w, err := t.wiring()
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.retire(); err != nil {
		return err
	}
	if t.viaAgent() {
		return nil
	}
	return errors.Join(t.closePublished(published), w.sweep())
}

// check compares an attachment with what an ADD has made of it. What plugins behind this one have changed is theirs.
func (t *task) check() error {
	if err := t.enterable(); err != nil {
		return err
	}
	rec, err := t.records.Get(t.key())
	if errors.Is(err, local.ErrNoRecord) {
		return &Error{Code: CodeContainer, Msg: fmt.Sprintf("%s is not attached to this node", t.key())}
	}
	if err != nil {
		return err
	}
	t.config.lease = rec.Lease
	n, err := t.config.network()
	if err != nil {
		return err
	}
	before, err := t.config.previous()
	if err != nil {
		return err
	}
	if before == nil {
		return &Error{Code: CodeConfig, Msg: "prevResult is missing: CHECK needs the result of the ADD"}
	}
	addresses := podAddresses(before, t.ifname)
	var errs []error
	for _, a := range rec.Addresses {
		if !slices.ContainsFunc(addresses, func(g given) bool { return t.config.same(g.prefix, a) }) {
			errs = append(errs, fmt.Errorf("prevResult lacks the address %s of %s", a, t.ifname))
		}
	}
	errs = append(errs, t.checkAddresses(rec), t.checkPort(n, rec, addresses), t.checkMasquerade(n), t.checkPublished())
	return differs("the attachment is not as it was made: DEL it and ADD it again", errs...)
}

// differs is what a CHECK ends with that has found such errors: what it could not look at has not changed for that.
func differs(msg string, errs ...error) error {
	unseen := func(err error) bool {
		var errno syscall.Errno
		var op *podweft.OpError
		known := errors.Is(err, bridge.ErrMissing) || errors.Is(err, podweft.ErrConflict)
		return !known && (errors.As(err, &errno) || errors.As(err, &op) || errors.Is(err, ipam.ErrLocked))
	}
	err := errors.Join(errs...)
	seen := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil || unseen(err) })
	if err == nil || len(seen) == 0 {
		return err
	}
	return fail(CodeMissing, msg, err)
}

func (t *task) checkAddresses(rec local.Record) error {
	switch {
	case t.config.claimed():
		return nil // the record, which the agent goes by too, has been compared
	case t.delegatedIPAM():
		return t.checkElsewhere()
	}
	pool, err := t.pool(nil)
	if err != nil {
		return err
	}
	defer pool.Close()
	held, err := pool.Lookup(t.ctx, t.owner())
	if err != nil {
		return err
	}
	var have []netip.Prefix
	for _, a := range held.Addresses {
		have = append(have, a.Prefix)
	}
	if !slices.Equal(have, rec.Addresses) {
		return fmt.Errorf("%s holds %v, not %v", t.owner(), have, rec.Addresses)
	}
	return nil
}

func (t *task) checkPort(n *network, rec local.Record, addresses []given) error {
	w, err := t.wiring()
	if err != nil {
		return err
	}
	defer w.Close()
	return w.check(n, addresses, rec.HostName)
}

// status says whether an ADD could be served.
func (t *task) status() error {
	n, err := t.config.network()
	if err == nil {
		err = t.records.Probe()
	}
	if err != nil {
		return notReady(err)
	}
	switch {
	case t.config.claimed():
		return t.claimable()
	case t.delegatedIPAM():
		return t.statusElsewhere()
	}
	pool, err := t.pool(n)
	if err != nil {
		return notReady(err)
	}
	defer pool.Close()
	usage, err := pool.Usage(t.ctx)
	if err != nil {
		return notReady(err)
	}
	for _, u := range usage {
		if u.Taken >= u.Total {
			return &Error{Code: CodeNotReady, Err: ipam.ErrExhausted, Msg: fmt.Sprintf(
				"no address is left: all %d of %s are taken: delete pods, or call GC for those that are gone", u.Total, u.Ranges[0].Prefix)}
		}
	}
	return nil
}

// notReady gives an error a code of STATUS.
func notReady(err error) error {
	e := *describe(err)
	if e.Code != CodeLimited {
		e.Code = CodeNotReady
	}
	return &e
}
