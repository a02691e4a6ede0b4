// Package links changes a driver's own links and their addresses, and writes down what it did: what the drivers that make
// links share. Each change is made when it is planned, since the next often depends on what became of it.
//
// It knows no kind of link: what one should be like, and what can be changed in place, is the driver's to say.
package links

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/fib"
	"github.com/podweft/podweft/internal/nl"
)

// Step is one pass over a Spec's links.
type Step struct {
	Conn  *nl.Conn
	Table *fib.Table // says whether what failed before deserves a try
	Alias string     // of the links that are ours
	Write bool       // else the plan is only made
	Plan  podweft.Plan
}

// Do adds a change to the plan and makes it.
func (s *Step) Do(ctx context.Context, op podweft.Op, o podweft.Object, note string, requests func(*nl.Batch)) {
	s.Try(ctx, op, o, note, func() error {
		var batch nl.Batch
		requests(&batch)
		for _, err := range s.Conn.Do(ctx, &batch) {
			if err != nil && !(op == podweft.Delete && errors.Is(err, unix.ENODEV)) {
				return err
			}
		}
		return nil
	})
}

// Try is Do for a change that is made by other means than rtnetlink.
func (s *Step) Try(ctx context.Context, op podweft.Op, o podweft.Object, note string, change func() error) {
	s.Plan = append(s.Plan, podweft.Change{Op: op, Object: o, Note: note})
	if !s.Write {
		return
	}
	err := podweft.ErrHeld
	if !podweft.PassOf(ctx).Held(o) || s.Table.Eager() {
		err = change()
	}
	if err != nil {
		s.Fail(err)
	}
}

// Refuse adds a change to the plan that cannot be made.
func (s *Step) Refuse(op podweft.Op, o podweft.Object, err error) {
	s.Plan = append(s.Plan, podweft.Change{Op: op, Object: o})
	s.Fail(err)
}

// Fail gives the last change of the plan its error.
func (s *Step) Fail(err error) {
	c := &s.Plan[len(s.Plan)-1]
	c.Err = &podweft.OpError{Op: c.Op.String(), Object: c.Object, Err: err}
}

// Failed is why the last change of the plan failed; nil if it did not.
func (s *Step) Failed() error {
	var failed *podweft.OpError
	if !errors.As(s.Plan[len(s.Plan)-1].Err, &failed) {
		return nil
	}
	return failed.Err
}

// Foreign is the conflict with a link of that name that is not ours.
func Foreign(l nl.Link) error {
	return fmt.Errorf("%w: link %s, of kind %q, alias %q", podweft.ErrConflict, l.Name, l.Kind, l.Alias)
}

// IndexOf is the index of our link of that name; 0 if there is none, as in a plan for one that is yet to be made.
func (s *Step) IndexOf(name string) (int, error) {
	l, err := s.Conn.Link(name)
	if errors.Is(err, nl.ErrNoLink) {
		return 0, nil
	}
	if l.Alias != s.Alias {
		return 0, err
	}
	return l.Index, err
}

// NameOf is the name of the link with that index, for a message; of one that has gone the index. 0 is none.
func (s *Step) NameOf(index int) string {
	if index == 0 {
		return ""
	}
	l, err := s.Conn.LinkAt(index)
	if err != nil {
		return fmt.Sprint(index)
	}
	return l.Name
}

// Addresses gives the link the addresses wanted and takes all others off it, but for the kernel's own link-local ones. An
// index that is not positive stands for a link that is yet to be made.
func (s *Step) Addresses(ctx context.Context, name string, index int, wanted []netip.Prefix) error {
	var have []nl.Address
	if index > 0 {
		var err error
		if have, err = s.Conn.Addresses(index); err != nil {
			return err
		}
	}
	for _, a := range wanted {
		if !slices.ContainsFunc(have, func(h nl.Address) bool { return h.Prefix == a }) {
			s.Do(ctx, podweft.Create, address{a, name}, "", func(b *nl.Batch) { b.AddAddress(nl.Address{Link: index, Prefix: a}) })
		}
	}
	for _, h := range have {
		if !h.LinkScope && !slices.Contains(wanted, h.Prefix) {
			s.Do(ctx, podweft.Delete, address{h.Prefix, name}, "", func(b *nl.Batch) { b.DeleteAddress(h) })
		}
	}
	return nil
}

// address is an object of our plans.
type address struct {
	prefix netip.Prefix
	dev    string
}

func (a address) ID() string     { return a.String() }
func (a address) String() string { return fmt.Sprintf("address %s dev %s", a.prefix, a.dev) }

// Networks are those that the link is on: whoever is there needs no tunnel.
func (s *Step) Networks(index int) ([]netip.Prefix, error) {
	addrs, err := s.Conn.Addresses(index)
	var on []netip.Prefix
	for _, a := range addrs {
		if !a.LinkScope && !a.Prefix.IsSingleIP() {
			on = append(on, a.Prefix.Masked())
		}
	}
	return on, err
}

// Changes are requests that make a link what it should be, and what they change as a note for people.
type Changes struct {
	Note     string
	requests []func(*nl.Batch)
}

// Add adds one request. what is how the link was before.
func (c *Changes) Add(what string, request func(*nl.Batch)) {
	if c.Note != "" {
		c.Note += ", "
	}
	c.Note += what
	c.requests = append(c.requests, request)
}

// Common adds what any link may need: its MTU, and to be up.
func (c *Changes) Common(want, have nl.Link) {
	if have.MTU != want.MTU {
		c.Add(fmt.Sprintf("was mtu %d", have.MTU), func(b *nl.Batch) { b.SetMTU(have.Index, want.MTU) })
	}
	if !have.Up {
		c.Add("was down", func(b *nl.Batch) { b.SetUp(have.Index, true) })
	}
}

// Put adds the requests to b.
func (c *Changes) Put(b *nl.Batch) {
	for _, request := range c.requests {
		request(b)
	}
}
