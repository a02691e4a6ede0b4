package nat

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
)

// Ports keeps the host ports of one node, in a table of its own. It is a [podweft.Driver], whose Apply knows all of them; Add
// and Remove serve a process that knows one pod's. It is safe for concurrent use, by other processes too.
type Ports struct {
	keeper
	netns string
}

var _ podweft.Driver[PortSpec] = (*Ports)(nil)

// NewPorts returns a Ports and changes nothing. It fails as New does.
func NewPorts(cfg Config) (*Ports, error) {
	p := &Ports{netns: cfg.NetNS}
	if err := p.open(cfg, tableName(cmp.Or(cfg.Owner, DefaultOwner), "hostports")); err != nil {
		return nil, err
	}
	return p, nil
}

// Close frees the sockets and ends Watch. Host ports stay open. It waits some 10 ms if anything was deleted.
func (p *Ports) Close() error { return p.conn.Close() }

// Plan reads the table and returns what Apply would do.
func (p *Ports) Plan(ctx context.Context, spec PortSpec) (podweft.Plan, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	return p.plan(ctx, published(p.name, spec))
}

// Apply makes the table what spec asks for, in one transaction. What UDP remembers of ports that were opened or closed is
// forgotten (see Add).
func (p *Ports) Apply(ctx context.Context, spec PortSpec) (podweft.Plan, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	plan, err := p.apply(ctx, published(p.name, spec))
	return plan, errors.Join(err, p.forgetChanged(ctx, plan))
}

// ApplyLatest is Apply of what latest returns, which is called when the table has been read, and again if it has to be read
// again. It is for who does not know by itself which ports there are: other processes note theirs somewhere, then Add them. What
// is in the table had then been noted before, so that none of it looks like something left over.
func (p *Ports) ApplyLatest(ctx context.Context, latest func() (PortSpec, error)) (podweft.Plan, error) {
	plan, err := p.applyLatest(ctx, func() (*table, error) {
		spec, err := latest()
		if err == nil {
			err = spec.Validate()
		}
		if err != nil {
			return nil, err
		}
		return published(p.name, spec), nil
	})
	return plan, errors.Join(err, p.forgetChanged(ctx, plan))
}

// Watch calls changed once when it listens, and then whenever somebody else has changed something in the table, until ctx
// ends or the driver is closed.
func (p *Ports) Watch(ctx context.Context, changed func()) error {
	return p.conn.Watch(ctx, p.name, changed)
}

// Teardown deletes the table: all host ports are closed.
func (p *Ports) Teardown(ctx context.Context) (podweft.Plan, error) { return p.apply(ctx, nil) }

// Add opens host ports and leaves all others as they are; near is as in [PortSpec]. It is one short transaction, which makes
// the table only where there is none. One that is open already is fine; one that leads to another pod is ErrConflict.
//
// Connections that UDP has remembered for the port are forgotten: packets of a sender that never pauses would go on past
// the pod for as long.
func (p *Ports) Add(ctx context.Context, ports []HostPort, near ...netip.Prefix) error {
	if err := (PortSpec{ports, near}).Validate(); err != nil {
		return err
	}
	t := newPortTable(p.name)
	elements := t.elementsOf(PortSpec{ports, near})
	add := func(within map[nft.Set][]nft.Element) error {
		var b nft.Batch
		for _, s := range t.sets() {
			b.DeleteElements(s, within[s]...)
			b.AddElements(s, elements[s]...)
		}
		return p.conn.Commit(ctx, &b)
	}
	err := add(nil)
	if errors.Is(err, unix.ENOENT) {
		if err = p.make(ctx); err == nil {
			err = add(nil)
		}
	}
	if errors.Is(err, unix.EEXIST) {
		var within map[nft.Set][]nft.Element
		if within, err = p.fit(ctx, elements, t.near4, t.near6); err == nil {
			err = add(within)
		}
	}
	if errors.Is(err, unix.EEXIST) {
		err = fmt.Errorf("%w: the port leads to another pod: %w", podweft.ErrConflict, err)
	}
	if err != nil {
		return err
	}
	return p.forget(ctx, ports, udpOnly)
}

// fit takes those out of the elements to be added to sets of prefixes that lie within one which is there, and returns those that are
// there and lie within one to be added: ranges must not overlap, and prefixes do when those of the node's pods have changed.
func (p *Ports) fit(ctx context.Context, elements map[nft.Set][]nft.Element, sets ...nft.Set) (within map[nft.Set][]nft.Element, err error) {
	within = map[nft.Set][]nft.Element{}
	for _, s := range sets {
		have, err := p.conn.Elements(ctx, s)
		if err != nil {
			return nil, err
		}
		lies := func(e nft.Element, in []nft.Element) bool {
			return slices.ContainsFunc(in, func(o nft.Element) bool { return contains(o, e) })
		}
		elements[s] = slices.DeleteFunc(elements[s], func(e nft.Element) bool { return lies(e, have) })
		for _, h := range have {
			if lies(h, elements[s]) {
				within[s] = append(within[s], h)
			}
		}
	}
	return within, nil
}

// contains reports whether both elements are prefixes, and outer contains inner.
func contains(outer, inner nft.Element) bool {
	o, ok := outer.AsPrefix()
	i, alike := inner.AsPrefix()
	return ok && alike && o.Bits() <= i.Bits() && o.Contains(i.Addr())
}

// make makes the table without host ports. If somebody else does so at this moment, one of the two does nothing.
func (p *Ports) make(ctx context.Context) error {
	var b nft.Batch
	want := published(p.name, PortSpec{Ports: []HostPort{}})
	b.CreateTable(p.name)
	for _, s := range want.sets {
		b.AddSet(s)
		b.AddElements(s, want.elements[s]...)
	}
	for _, c := range want.chains {
		b.AddChain(c)
	}
	for _, r := range want.rules {
		b.AddRule(r)
	}
	if err := p.conn.Commit(ctx, &b); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// Remove closes host ports. One that is closed already is fine, and so is one that leads to another pod by now, which stays.
// Every connection through them is forgotten.
func (p *Ports) Remove(ctx context.Context, ports []HostPort) error {
	if err := (PortSpec{Ports: ports}).Validate(); err != nil {
		return err
	}
	t := newPortTable(p.name)
	elements := t.elementsOf(PortSpec{Ports: hidden(ports)})
	for _, of := range [][3]nft.Set{{t.any4, t.one4, t.ours4}, {t.any6, t.one6, t.ours6}} {
		for try := 1; len(elements[of[2]]) > 0; try++ {
			err := p.removeOf(ctx, of, elements)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.ENOENT) || try == tries { // else somebody else is at it too
				return err
			}
		}
	}
	return p.forget(ctx, ports, everyProtocol)
}

// hidden are the ports as those without KeepSource, which have all the elements that a port can have.
func hidden(ports []HostPort) []HostPort {
	ports = slices.Clone(ports)
	for i := range ports {
		ports[i].KeepSource = false
	}
	return ports
}

// removeOf removes elements of one family: those of the two maps, and of the set those to which no other element of the maps leads. It
// fails with ENOENT where one of them has gone meanwhile, and then removes nothing.
func (p *Ports) removeOf(ctx context.Context, of [3]nft.Set, elements map[nft.Set][]nft.Element) error {
	var b nft.Batch
	needed := map[nft.Element]bool{}
	for _, set := range of {
		have, err := p.conn.Elements(ctx, set)
		if errors.Is(err, unix.ENOENT) { // no table
			return nil
		}
		if err != nil {
			return err
		}
		doomed := map[nft.Element]bool{}
		for _, e := range elements[set] {
			doomed[e] = true
		}
		for _, h := range have {
			switch {
			case doomed[h] && !needed[h]:
				b.DeleteElements(set, h)
			case set != of[2]:
				needed[publishedBy(h)] = true
			}
		}
	}
	return p.conn.Commit(ctx, &b)
}

// publishedBy is the element of the set of what was translated that belongs to an element of a map, whose key ends with protocol and port.
func publishedBy(e nft.Element) nft.Element {
	const protocolPort = 8 // each padded to four bytes
	return nft.Element{Key: e.Key[max(0, len(e.Key)-protocolPort):] + e.Data}
}

// Missing returns those of ports that are not open, or not as they say: what is to keep its source does not, or the reverse.
func (p *Ports) Missing(ctx context.Context, ports []HostPort) (missing []HostPort, err error) {
	t := newPortTable(p.name)
	have := map[nft.SetElement]bool{}
	for _, s := range t.sets() {
		elements, err := p.conn.Elements(ctx, s)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, err
		}
		for _, e := range elements {
			have[nft.SetElement{Set: s, Element: e}] = true
		}
	}
	want := map[nft.SetElement]bool{}
	for set, elements := range t.elementsOf(PortSpec{Ports: ports}) {
		for _, e := range elements {
			want[nft.SetElement{Set: set, Element: e}] = true
		}
	}
	for _, port := range ports {
		for set, elements := range t.elementsOf(PortSpec{Ports: hidden([]HostPort{port})}) {
			if set == t.near4 || set == t.near6 || len(elements) == 0 {
				continue
			}
			if e := (nft.SetElement{Set: set, Element: elements[0]}); have[e] != want[e] {
				missing = append(missing, port)
				break
			}
		}
	}
	return missing, nil
}
