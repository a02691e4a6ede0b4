package bridge

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/sysctl"
)

// step is one thing to do to one object.
type step struct {
	op      string
	object  string
	request func(*nl.Batch)
	// device is set for an IPv6 address: the link it is put on, which may have IPv6 turned off.
	device string
	// fine is the error that means "already so".
	fine error
}

func addAddress(dev string, a nl.Address) step {
	s := step{
		op: "create", object: addressText(dev, a),
		request: func(b *nl.Batch) { b.AddAddress(a) }, fine: unix.EEXIST,
	}
	if a.Prefix.Addr().Is6() {
		s.device = dev
	}
	return s
}

func deleteAddress(dev string, a nl.Address) step {
	return step{
		op: "delete", object: addressText(dev, a),
		request: func(b *nl.Batch) { b.DeleteAddress(a) }, fine: unix.EADDRNOTAVAIL,
	}
}

func addressText(dev string, a nl.Address) string {
	return fmt.Sprintf("address %s dev %s", a.Prefix, dev)
}

func addRoute(dev string, r nl.Route) step {
	return step{op: "create", object: r.Format(dev), request: func(b *nl.Batch) { b.AddRoute(r) }}
}

func setNeighbor(dev string, n nl.Neighbor) step {
	return step{
		op: "create", object: fmt.Sprintf("neighbour %s lladdr %s dev %s", n.Addr, n.MAC, dev),
		request: func(b *nl.Batch) { b.SetNeighbor(n) },
	}
}

func setUp(l nl.Link) step {
	return step{op: "bring up", object: "link " + l.Name, request: func(b *nl.Batch) { b.SetUp(l.Index, true) }}
}

// space is a network namespace in which steps are carried out.
type space struct {
	conn *nl.Conn
	path string // empty is the caller's
}

// do carries out the steps, all at once, and returns the first failure: those behind it mostly follow from it.
func (s space) do(ctx context.Context, steps ...step) error {
	failed, errs := s.send(ctx, steps)
	if dev := ipv6Off(failed, errs); dev != "" {
		if err := sysctl.Ensure(s.path, "net/ipv6/conf/"+dev+"/disable_ipv6", "0"); err != nil {
			return err
		}
		failed, errs = s.send(ctx, failed)
	}
	if len(failed) == 0 {
		return nil
	}
	return failed[0].explain(errs[0])
}

// send returns the steps that failed, and why.
func (s space) send(ctx context.Context, steps []step) (failed []step, errs []error) {
	var b nl.Batch
	var of []int // step by request
	for i, step := range steps {
		step.request(&b)
		for len(of) < b.Len() {
			of = append(of, i)
		}
	}
	last := -1
	for i, err := range s.conn.Do(ctx, &b) {
		step := steps[of[i]]
		if err == nil || last == of[i] || step.fine != nil && errors.Is(err, step.fine) {
			continue
		}
		last = of[i]
		failed, errs = append(failed, step), append(errs, err)
	}
	return failed, errs
}

// ipv6Off returns the name of the link that refused an address because its IPv6 is turned off (disable_ipv6, which many
// container runtimes set for new links): EACCES, addrconf_add_dev in net/ipv6/addrconf.c. Trying first keeps /proc/sys,
// which costs a thread in the pod, out of the usual way.
func ipv6Off(failed []step, errs []error) string {
	for i, step := range failed {
		if step.device != "" && errors.Is(errs[i], unix.EACCES) {
			return step.device
		}
	}
	return ""
}

func (s step) explain(err error) error {
	switch {
	case errors.Is(err, unix.EEXIST):
		err = fmt.Errorf("%w: %w", podweft.ErrConflict, err)
	case s.device != "" && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT)):
		err = fmt.Errorf("%w: no IPv6: %w", podweft.ErrNotSupported, err)
	}
	return &podweft.OpError{Op: s.op, Object: podweft.Named(s.object), Err: err}
}
