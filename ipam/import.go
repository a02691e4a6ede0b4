package ipam

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/podweft/podweft"
)

// take makes owners hold what they have by another program's word. The file is made anew, so that it happens at one stroke.
func (p *Pool) take(ctx context.Context, leases []lease) (taken []Allocation, problems []error, err error) {
	records, problems := p.rules.gather(leases)
	err = p.locked(ctx, func(s *store) error {
		fresh, refused, err := s.unknown(records)
		if err != nil {
			return err
		}
		problems = append(problems, refused...)
		if len(fresh) == 0 {
			return nil
		}
		g := p.rules.geometry
		if len(g) == 0 && !s.void {
			g = s.geometry // a Pool that only looks up and releases leaves the ranges alone
		}
		m, err := s.image(g, addresses(fresh))
		if err != nil {
			return err
		}
		for _, rec := range fresh {
			rec.born = m.seq
			m.hold(rec)
			taken = append(taken, rec.Allocation)
		}
		return s.replace(m)
	})
	return taken, problems, err
}

// gather makes one record of the leases of each owner.
func (rules *ruleset) gather(leases []lease) (records []*record, problems []error) {
	leases = slices.Clone(leases)
	slices.SortFunc(leases, func(a, b lease) int { return cmp.Or(rules.setOf(a.addr)-rules.setOf(b.addr), a.addr.Compare(b.addr)) })
	byOwner := map[Owner]*record{}
	for _, l := range leases {
		rec := byOwner[l.owner]
		switch err := l.owner.Validate(); {
		case err != nil:
			problems = append(problems, fmt.Errorf("%s: %w", l.file, err))
			continue
		case rec == nil:
			rec = &record{state: held, Allocation: Allocation{Owner: l.owner, Since: time.Unix(0, l.since.UnixNano())}}
			byOwner[l.owner] = rec
			records = append(records, rec)
		case len(rec.Addresses) == maxSets:
			problems = append(problems, &podweft.FieldError{
				Field: l.file, Value: l.owner, Problem: fmt.Sprintf("has more than %d addresses", maxSets), Remedy: "the highest are left out",
			})
			continue
		}
		rec.Addresses = append(rec.Addresses, rules.describe(l.addr))
	}
	slices.SortFunc(records, func(a, b *record) int { return a.Addr().Compare(b.Addr()) })
	return records, problems
}

// setOf is the number of the set that an address belongs to, the last one for an address of none.
func (rules *ruleset) setOf(a netip.Addr) int {
	set, _, _, ok := rules.geometry.locate(a)
	if !ok {
		return len(rules.geometry)
	}
	return set
}

// describe is an address that somebody has, with what the subnets say of it, if it is in one.
func (rules *ruleset) describe(a netip.Addr) Address {
	for _, r := range slices.Concat(rules.ranges...) {
		if r.Prefix.Contains(a) {
			return r.address(a)
		}
	}
	return Address{Prefix: netip.PrefixFrom(a, a.BitLen())}
}

// unknown returns those of records that the store does not hold yet, and why others cannot be held.
func (s *store) unknown(records []*record) (fresh []*record, refused []error, err error) {
	holders := map[netip.Addr]Owner{}
	owners := map[Owner]Allocation{}
	err = s.each(func(_ uint32, rec *record) bool {
		if rec.state == held {
			owners[rec.Owner] = rec.Allocation
			for _, a := range rec.Addresses {
				holders[a.Prefix.Addr()] = rec.Owner
			}
		}
		return true
	})
	for _, rec := range records {
		known, twice := owners[rec.Owner]
		var taken error
		for _, a := range rec.Addresses {
			addr := a.Prefix.Addr()
			switch holder, ok := holders[addr]; {
			case ok && holder != rec.Owner:
				taken = fmt.Errorf("%s of %s: %w by %s", addr, rec.Owner, ErrTaken, holder)
			case twice && !known.holds(addr):
				taken = fmt.Errorf("%s of %s: %w: it holds %s already", addr, rec.Owner, ErrTaken, known.Addr())
			}
		}
		switch {
		case taken != nil:
			refused = append(refused, taken)
		case !twice:
			fresh = append(fresh, rec)
			owners[rec.Owner] = rec.Allocation
			for _, a := range rec.Addresses {
				holders[a.Prefix.Addr()] = rec.Owner
			}
		}
	}
	return fresh, refused, err
}

func addresses(records []*record) map[netip.Addr]bool {
	set := map[netip.Addr]bool{}
	for _, rec := range records {
		for _, a := range rec.Addresses {
			set[a.Prefix.Addr()] = true
		}
	}
	return set
}
