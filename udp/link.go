package udp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/fib"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/sysctl"
)

// kind is how rtnetlink calls a TUN link.
const kind = "tun"

// layout is what the links of one moment mean for the rest.
type layout struct {
	scope fib.Scope
	tun   int // its index; negative in a plan for one that is not there
	mtu   int

	unwanted []nl.Link // links of ours that are to go when no route leads through them any more
}

// link is an object of our plans.
type link struct {
	name string
	mtu  int
}

func (l link) ID() string { return "link " + l.name }

func (l link) String() string {
	if l.mtu == 0 {
		return fmt.Sprintf("link %s type tun", l.name)
	}
	return fmt.Sprintf("link %s type tun mtu %d", l.name, l.mtu)
}

// address is an object of our plans.
type address struct {
	prefix netip.Prefix
	dev    string
}

func (a address) ID() string     { return a.String() }
func (a address) String() string { return fmt.Sprintf("address %s dev %s", a.prefix, a.dev) }

// socket is an object of our plans.
type socket netip.AddrPort

func (s socket) ID() string     { return s.String() }
func (s socket) String() string { return "socket udp " + netip.AddrPort(s).String() }

// step compares and, where write is set, changes the links, addresses and sockets of one Spec.
type step struct {
	d     *Driver
	ctx   context.Context
	write bool
	plan  podweft.Plan
	out   layout
}

// do adds a change to the plan and makes it.
func (s *step) do(op podweft.Op, o podweft.Object, note string, act func() error) bool {
	s.plan = append(s.plan, podweft.Change{Op: op, Object: o, Note: note})
	if !s.write {
		return true
	}
	if podweft.PassOf(s.ctx).Held(o) && !s.d.fib.Eager() {
		s.fail(podweft.ErrHeld)
		return false
	}
	if err := act(); err != nil {
		s.fail(err)
		return false
	}
	return true
}

// fail gives the last change of the plan its error.
func (s *step) fail(err error) {
	c := &s.plan[len(s.plan)-1]
	c.Err = &podweft.OpError{Op: c.Op.String(), Object: c.Object, Err: err}
}

// send carries out requests; what one that is not there answers to a deletion is success.
func (s *step) send(requests func(*nl.Batch)) error {
	var batch nl.Batch
	requests(&batch)
	for _, err := range s.d.conn.Do(s.ctx, &batch) {
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	return nil
}

// links makes the TUN link and its addresses as spec wants them, or says what would have to be done.
func (s *step) links(spec Spec) error {
	s.out.scope.Others = map[int]string{}
	known, err := s.d.conn.LinksOfKind(s.ctx, kind)
	if err != nil {
		return err
	}
	var have nl.Link
	for _, l := range known {
		switch {
		case !spec.isZero() && l.Name == spec.name():
			have = l
		case l.Alias == s.d.alias:
			s.out.unwanted = append(s.out.unwanted, l)
		}
	}
	if spec.isZero() {
		return nil
	}
	device, err := s.d.conn.Link(spec.Device)
	if err != nil {
		return err
	}
	s.out.scope.Others[device.Index] = device.Name
	s.out.mtu = cmp.Or(spec.MTU, device.MTU-spec.overhead())
	if err := s.converge(spec, have); err != nil || s.out.tun == 0 {
		return err
	}
	s.out.scope.Others[s.out.tun] = spec.name()
	s.acceptLocal(spec)
	return s.addresses(spec)
}

// acceptLocal lets our ICMP errors in: they have the link's own address for their source, and the kernel takes such an IPv4 packet for
// a forgery (fib_validate_source in net/ipv4/fib_frontend.c). Nobody else can forge one: what a peer sends has that peer's addresses.
// Where it cannot be set, as in a container whose /proc/sys is read-only, all else works.
func (s *step) acceptLocal(spec Spec) {
	if !s.write || s.out.tun < 0 {
		return
	}
	if err := sysctl.Ensure(s.d.netns, "net/ipv4/conf/"+spec.name()+"/accept_local", "1"); err != nil {
		s.d.warnICMP.Do(func() { s.d.log.Warn("senders of IPv4 packets that go nowhere are not told", "err", err) })
	}
}

// overhead is the largest of what the underlay adds.
func (s Spec) overhead() (most int) {
	for _, a := range s.Local {
		most = max(most, Overhead(a))
	}
	return most
}

// converge makes have into the link that is wanted, and attaches to it.
func (s *step) converge(spec Spec, have nl.Link) error {
	o := link{spec.name(), s.out.mtu}
	switch {
	case have.Index == 0:
		if other, err := s.d.conn.Link(spec.name()); err == nil {
			return s.conflict(o, other)
		}
		return s.create(o, podweft.Create, "")
	case have.Alias != s.d.alias:
		return s.conflict(o, have)
	}
	s.out.tun = have.Index
	if !s.attachable() {
		return nil
	}
	if s.d.path.device == nil || s.d.path.device.index != have.Index || s.d.path.broken.Load() {
		if recreated, err := s.reattach(o, have); err != nil || recreated {
			return err
		}
	}
	note := ""
	var requests nl.Batch
	if have.MTU != s.out.mtu {
		note = fmt.Sprintf("was mtu %d", have.MTU)
		requests.SetMTU(have.Index, s.out.mtu)
	}
	if !have.Up {
		note = cmp.Or(note, "was down")
		requests.SetUp(have.Index, true)
	}
	if note != "" {
		s.do(podweft.Update, o, note, func() error { return errors.Join(s.d.conn.Do(s.ctx, &requests)...) })
	}
	return nil
}

// attachable reports whether packets taken from the link could be sent: where a socket could not be opened, another process may have
// its port, and be forwarding.
func (s *step) attachable() bool {
	return !s.write || len(s.d.path.sockets[0])+len(s.d.path.sockets[1]) > 0 || s.plan.Err() == nil
}

func (s *step) conflict(o link, other nl.Link) error {
	s.plan = append(s.plan, podweft.Change{Op: podweft.Create, Object: o})
	s.fail(fmt.Errorf("%w: link %s, of kind %q, alias %q", podweft.ErrConflict, other.Name, other.Kind, other.Alias))
	return nil
}

// create makes the link. It is made to persist last: what is cut short leaves nothing that nobody would know again.
func (s *step) create(o link, op podweft.Op, note string) error {
	s.out.tun = -1
	made := s.do(op, o, note, func() error {
		d, err := attach(s.d.netns, o.name, s.d.queues, true)
		if errors.Is(err, unix.EBUSY) {
			err = fmt.Errorf("%w: %w", podweft.ErrConflict, err)
		}
		if err != nil {
			return err
		}
		err = s.send(func(b *nl.Batch) { b.Mark(nl.Link{Name: o.name, Alias: s.d.alias}) })
		if err == nil {
			err = d.persist()
		}
		var l nl.Link
		if err == nil {
			l, err = s.d.conn.Link(o.name)
		}
		if err == nil {
			err = s.send(func(b *nl.Batch) { b.SetMTU(l.Index, o.mtu) })
		}
		if err != nil {
			return errors.Join(err, d.close())
		}
		d.index = l.Index
		s.d.take(d)
		return nil
	})
	switch {
	case s.write && made:
		s.out.tun = s.d.path.device.index
	case s.write:
		s.out.tun = 0
	}
	return nil
}

// reattach opens the queues of a link that is ours, from before a restart as a rule. It is made anew where it was made in another
// way.
func (s *step) reattach(o link, have nl.Link) (recreated bool, err error) {
	if !s.write {
		s.do(podweft.Update, o, "to be attached to", nil)
		return false, nil
	}
	old := s.d.path.device
	if old != nil && old.index == have.Index {
		s.d.take(nil) // its queues are ours, and in the way
	}
	d, err := attach(s.d.netns, o.name, s.d.queues, false)
	switch {
	case errors.Is(err, unix.EINVAL):
		if err := s.send(func(b *nl.Batch) { b.DeleteLink(have.Index) }); err != nil {
			return false, err
		}
		return true, s.create(o, podweft.Update, "replaces one with a single queue")
	case err != nil:
		s.do(podweft.Update, o, "to be attached to", func() error { return err })
		return false, nil
	}
	d.index = have.Index
	s.d.take(d)
	return false, nil
}

// addresses gives the link its addresses and takes all others off it, but for the kernel's own link-local ones.
func (s *step) addresses(spec Spec) error {
	index := s.out.tun
	var have []nl.Address
	if index > 0 {
		var err error
		if have, err = s.d.conn.Addresses(index); err != nil {
			return err
		}
	}
	for _, a := range spec.Addresses {
		if !slices.ContainsFunc(have, func(h nl.Address) bool { return h.Prefix == a }) {
			s.do(podweft.Create, address{a, spec.name()}, "", func() error {
				return s.send(func(b *nl.Batch) { b.AddAddress(nl.Address{Link: index, Prefix: a}) })
			})
		}
	}
	for _, h := range have {
		if !h.LinkScope && !slices.Contains(spec.Addresses, h.Prefix) {
			s.do(podweft.Delete, address{h.Prefix, spec.name()}, "", func() error {
				return s.send(func(b *nl.Batch) { b.DeleteAddress(h) })
			})
		}
	}
	return nil
}

// sockets opens those that spec wants and closes the others. One that is to move to another address is closed when its successor is
// there.
func (s *step) sockets(spec Spec) {
	for f := range s.d.path.sockets {
		var want netip.AddrPort
		for _, a := range spec.Local {
			if a.Is6() == (f == 1) {
				want = netip.AddrPortFrom(a, spec.port())
			}
		}
		have := s.d.path.sockets[f].at()
		switch {
		case want == have && !(want.IsValid() && s.d.path.broken.Load()):
		case !want.IsValid():
			s.do(podweft.Delete, socket(have), "", func() error {
				s.d.replaceSockets(f, nil)
				return nil
			})
		case have.IsValid():
			s.do(podweft.Update, socket(want), "was "+have.String(), func() error { return s.d.openSockets(f, want) })
		default:
			s.do(podweft.Create, socket(want), "", func() error { return s.d.openSockets(f, want) })
		}
	}
}

// portsFailed reports whether a socket or the link could not be opened.
func (s *step) portsFailed() bool {
	for _, c := range s.plan {
		if c.Err == nil {
			continue
		}
		switch c.Object.(type) {
		case socket, link:
			return true
		}
	}
	return false
}

// removeLinks removes the links of ours that nobody wants.
func (s *step) removeLinks() {
	for _, l := range s.out.unwanted {
		s.do(podweft.Delete, link{l.Name, l.MTU}, "", func() error {
			if d := s.d.path.device; d != nil && d.index == l.Index {
				s.d.take(nil)
			}
			return s.send(func(b *nl.Batch) { b.DeleteLink(l.Index) })
		})
	}
}
