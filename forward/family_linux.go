package forward

import (
	"iter"
	"net/netip"

	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/internal/xtables"
)

// family is what differs between IPv4 and IPv6.
type family struct {
	nft    nft.Family
	word   string // in nft's language
	is4    bool
	source uint32 // where in the header the source address is; the destination follows
	size   uint32 // of an address
	legacy xtables.Family
}

var families = [...]family{
	{nft.IPv4, "ip", true, 12, 4, xtables.IPv4},
	{nft.IPv6, "ip6", false, 8, 16, xtables.IPv6},
}

// Where iptables' rules for forwarded packets are.
const (
	tableName = "filter"
	chainName = "FORWARD"
)

func (f family) table() nft.Table { return nft.Table{Family: f.nft, Name: tableName} }

// matches yields what the family's rules are to accept.
func (f family) matches(spec Spec) iter.Seq2[direction, netip.Prefix] {
	return func(yield func(direction, netip.Prefix) bool) {
		for _, p := range spec.Networks {
			for _, d := range directions {
				if p.Addr().Is4() == f.is4 && !yield(d, p) {
					return
				}
			}
		}
	}
}
