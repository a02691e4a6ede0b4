package ptp

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft/internal/cable"
)

// Spec is all routed ports of a node.
type Spec struct {
	// Ports are the pods', in any order. Ports of the owner that are not named stay: a plugin may be attaching them at this
	// moment. [Attacher.DetachAll] removes them.
	Ports []Port
	// Local are prefixes whose addresses are pods' of this node and nobody else's, such as its blocks. Packets for one that no
	// port has are dropped here (a blackhole route), rather than sent out, to come back from where it is known whose it is.
	Local []netip.Prefix
}

// Validate reports everything that is wrong with s, joined, each as a [*podweft.FieldError].
func (s Spec) Validate() error {
	var errs []error
	var f cable.Fields
	holder := map[netip.Addr]int{}
	ids := map[cable.ID]int{}
	for i, p := range s.Ports {
		if err := p.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("port %d: %w", i, err))
		}
		id := cable.ID{Container: p.Container, Name: cmp.Or(p.Name, DefaultInterface)}
		if other, twice := ids[id]; twice {
			f.Add(fmt.Sprintf("Ports[%d]", i), id.Container+"/"+id.Name, fmt.Sprintf("is Ports[%d] too", other), "")
		}
		ids[id] = i
		for _, a := range p.Addresses {
			if other, twice := holder[a]; twice && other != i {
				f.Add(fmt.Sprintf("Ports[%d].Addresses", i), a, fmt.Sprintf("is an address of Ports[%d] too", other), "")
			}
			holder[a] = i
		}
	}
	for i, p := range s.Local {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() || p.Bits() == 0 {
			f.Add(fmt.Sprintf("Local[%d]", i), p, "is not a subnet", "write one like 10.244.1.0/26, no host bits set")
		}
	}
	return errors.Join(append(errs, f.Err())...)
}

// sorted are the ports with their defaults, in the order of plans.
func (s Spec) sorted(owner string) []Port {
	ports := make([]Port, 0, len(s.Ports))
	for _, p := range s.Ports {
		ports = append(ports, p.withDefaults(owner))
	}
	slices.SortFunc(ports, func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Container, b.Container), cmp.Compare(a.Name, b.Name))
	})
	return ports
}

// local are the prefixes that are to be dropped as a whole: one of a single address that a port has is that port's.
func (s Spec) local() []netip.Prefix {
	var all []netip.Prefix
	for _, p := range s.Local {
		held := p.IsSingleIP() && slices.ContainsFunc(s.Ports, func(port Port) bool { return slices.Contains(port.Addresses, p.Addr()) })
		if !held && !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return all
}
