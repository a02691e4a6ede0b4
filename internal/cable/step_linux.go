package cable

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/sysctl"
)

// Step is one thing to do to one object.
type Step struct {
	Op      string
	Object  string
	Request func(*nl.Batch)
	// Device is set for an IPv6 address: the link it is put on, which may have IPv6 turned off.
	Device string
	// Fine is the error that means "already so".
	Fine error
	// Lacking is the error that means that the kernel does not know such objects.
	Lacking error
}

// AddAddress puts a on its link, whose name is dev.
func AddAddress(dev string, a nl.Address) Step {
	s := Step{
		Op: "create", Object: AddressText(dev, a),
		Request: func(b *nl.Batch) { b.AddAddress(a) }, Fine: unix.EEXIST,
	}
	if a.Prefix.Addr().Is6() {
		s.Device = dev
	}
	return s
}

// DeleteAddress takes a off its link, whose name is dev.
func DeleteAddress(dev string, a nl.Address) Step {
	return Step{
		Op: "delete", Object: AddressText(dev, a),
		Request: func(b *nl.Batch) { b.DeleteAddress(a) }, Fine: unix.EADDRNOTAVAIL,
	}
}

// AddressText names an address in messages.
func AddressText(dev string, a nl.Address) string {
	return fmt.Sprintf("address %s dev %s", a.Prefix, dev)
}

// AddRoute adds r, which leads to the link of the name dev. Something in its place is a conflict.
func AddRoute(dev string, r nl.Route) Step {
	return Step{Op: "create", Object: r.Format(dev), Request: func(b *nl.Batch) { b.AddRoute(r) }}
}

// SetNeighbor makes n, on the link of the name dev, in the place of what is there.
func SetNeighbor(dev string, n nl.Neighbor) Step {
	return Step{
		Op: "create", Object: fmt.Sprintf("neighbour %s lladdr %s dev %s", n.Addr, n.MAC, dev),
		Request: func(b *nl.Batch) { b.SetNeighbor(n) },
	}
}

// SetUp brings the link up.
func SetUp(l nl.Link) Step {
	return Step{Op: "bring up", Object: "link " + l.Name, Request: func(b *nl.Batch) { b.SetUp(l.Index, true) }}
}

// setUpAlone brings a link up that may be one of several in its subnet: whoever asked for the address of one would get the MACs of all.
func setUpAlone(l nl.Link) Step {
	return Step{Op: "bring up", Object: "link " + l.Name, Request: func(b *nl.Batch) { b.SetUpAlone(l.Index) }}
}

// Delete deletes the link with its pair; one that is gone is fine. It waits for the kernel, about 20 ms.
func Delete(l nl.Link) Step {
	return Step{
		Op: "delete", Object: "link " + l.Name, Request: func(b *nl.Batch) { b.DeleteLink(l.Index) }, Fine: unix.ENODEV,
	}
}

// Space is a network namespace in which steps are carried out.
type Space struct {
	Conn *nl.Conn
	Path string // empty is the caller's
}

// Do carries out the steps, all at once, and returns the first failure: those behind it mostly follow from it.
func (s Space) Do(ctx context.Context, steps ...Step) error {
	failed, errs := s.send(ctx, steps)
	if dev := ipv6Off(failed, errs); dev != "" {
		if err := sysctl.Ensure(s.Path, "net/ipv6/conf/"+dev+"/disable_ipv6", "0"); err != nil {
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
func (s Space) send(ctx context.Context, steps []Step) (failed []Step, errs []error) {
	var b nl.Batch
	var of []int // step by request
	for i, step := range steps {
		step.Request(&b)
		for len(of) < b.Len() {
			of = append(of, i)
		}
	}
	last := -1
	for i, err := range s.Conn.Do(ctx, &b) {
		step := steps[of[i]]
		if err == nil || last == of[i] || step.Fine != nil && errors.Is(err, step.Fine) {
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
func ipv6Off(failed []Step, errs []error) string {
	for i, step := range failed {
		if step.Device != "" && errors.Is(errs[i], unix.EACCES) {
			return step.Device
		}
	}
	return ""
}

func (s Step) explain(err error) error {
	switch {
	case errors.Is(err, unix.EEXIST):
		err = fmt.Errorf("%w: %w", podweft.ErrConflict, err)
	case s.Device != "" && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT)):
		err = fmt.Errorf("%w: no IPv6: %w", podweft.ErrNotSupported, err)
	case s.Lacking != nil && errors.Is(err, s.Lacking):
		err = fmt.Errorf("%w: %w", podweft.ErrNotSupported, err)
	}
	return &podweft.OpError{Op: s.Op, Object: podweft.Named(s.Object), Err: err}
}
