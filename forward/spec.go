package forward

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/podweft/podweft"
)

// Resync is how often a podweft.Loop is to look without being told to: the old tables tell nobody when they change.
const Resync = 30 * time.Second

// Spec says which packets are to be forwarded: those from and to Networks. The zero Spec wants nothing of the firewall.
type Spec struct {
	// Networks are the cluster's pod networks, of either family.
	Networks []netip.Prefix
}

// Validate reports everything in the Spec that makes no sense, each as a [*podweft.FieldError].
func (s Spec) Validate() error {
	var errs []error
	for i, p := range s.Networks {
		field := fmt.Sprintf("Networks[%d]", i)
		switch {
		case !p.IsValid() || p.Addr().Is4In6() || p != p.Masked():
			errs = append(errs, &podweft.FieldError{Field: field, Value: p, Problem: "is not a network", Remedy: "write one like 10.244.0.0/16"})
		case p.Bits() == 0:
			errs = append(errs, &podweft.FieldError{Field: field, Value: p, Problem: "is everything", Remedy: "name the pods' network: the rest is the firewall's business"})
		}
	}
	return errors.Join(errs...)
}

// direction is one of the two ways that a packet can concern a network.
type direction struct {
	word string // nft's
	flag string // iptables'
	to   bool
}

var directions = [...]direction{{"saddr", "-s", false}, {"daddr", "-d", true}}
