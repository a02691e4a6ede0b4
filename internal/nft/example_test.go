package nft_test

import (
	"fmt"
	"net/netip"

	"github.com/podweft/podweft/internal/nft"
)

func Example() {
	table := nft.Table{Family: nft.INet, Name: "podweft-nat"}
	pods := nft.Set{Table: table, Name: "pods4", Key: nft.IPv4Addr, Interval: true}
	mine := nft.Prefix(netip.MustParsePrefix("10.244.1.0/24"))

	var b nft.Batch
	b.AddTable(table, 0)
	b.AddSet(pods)
	b.AddElements(pods, mine)
	// c, err := nft.Open(netns); err = c.Commit(ctx, &b)

	fmt.Println(b.Len(), "requests:", pods, "and", nft.SetElement{Set: pods, Element: mine})
	// Output: 3 requests: set inet podweft-nat pods4 { type ipv4_addr; flags interval; } and element inet podweft-nat pods4 { 10.244.1.0/24 }
}
