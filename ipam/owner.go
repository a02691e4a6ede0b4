package ipam

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/podweft/podweft"
)

// maxOwner bounds the length of an Owner's three fields together, so that a record fits its block.
const maxOwner = 300

// Owner is who holds addresses: one interface of one container in one network, which is what CNI calls an attachment. The
// three are opaque text. Container is required.
type Owner struct {
	Network   string
	Container string
	Interface string
}

// String is the owner as "network/container/interface".
func (o Owner) String() string { return o.Network + "/" + o.Container + "/" + o.Interface }

// Validate reports why o cannot hold addresses, as a [*podweft.FieldError].
func (o Owner) Validate() error {
	if o.Container == "" {
		return &podweft.FieldError{Field: "Owner.Container", Problem: "is missing"}
	}
	if n := len(o.Network) + len(o.Container) + len(o.Interface); n > maxOwner {
		return &podweft.FieldError{
			Field: "Owner", Value: fmt.Sprintf("%.40s...", o), Problem: fmt.Sprintf("is %d bytes long", n),
			Remedy: fmt.Sprintf("use at most %d", maxOwner),
		}
	}
	return nil
}

// Address is one address of an Allocation, with what the pod needs to use it.
type Address struct {
	Prefix  netip.Prefix // the address with its subnet's length: 10.244.1.2/24
	Gateway netip.Addr   // the way out: 10.244.1.1
}

// Allocation is what an Owner holds.
type Allocation struct {
	Owner     Owner
	Addresses []Address // in the order of the sets that gave them
	Since     time.Time // by the wall clock, for people
}

// Addr is the first address, or the zero Addr when there is none.
func (a Allocation) Addr() netip.Addr {
	if len(a.Addresses) == 0 {
		return netip.Addr{}
	}
	return a.Addresses[0].Prefix.Addr()
}

func (a Allocation) holds(addr netip.Addr) bool {
	for _, held := range a.Addresses {
		if held.Prefix.Addr() == addr {
			return true
		}
	}
	return false
}
