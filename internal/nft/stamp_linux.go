package nft

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Stamp tells a table from what it was: it has the numbers that the kernel gave to it and to some of its chains, and how much
// each holds. It is another as soon as one of these is made anew, or sets, chains or rules come or go; the elements of sets
// do not count. It takes a question for each, where listing all takes dozens. The error is ENOENT (and so fs.ErrNotExist)
// when one is not there.
func (c *Conn) Stamp(ctx context.Context, t Table, chains ...string) (string, error) {
	var stamp strings.Builder
	put := func(r reply, handle, use uint16) {
		all := r.attrs()
		fmt.Fprintf(&stamp, "%x:%x ", find(all, handle), find(all, use))
	}
	err := c.get(ctx, t, question{
		kind: unix.NFT_MSG_GETTABLE, family: t.Family,
		body: func(m *message) { m.str(unix.NFTA_TABLE_NAME, t.Name) },
		each: func(r reply) {
			fmt.Fprintf(&stamp, "%x ", find(r.attrs(), unix.NFTA_TABLE_FLAGS))
			put(r, nftaTableHandle, unix.NFTA_TABLE_USE)
		},
	})
	for _, chain := range chains {
		if err != nil {
			break
		}
		err = c.get(ctx, Chain{Table: t, Name: chain}, question{
			kind: unix.NFT_MSG_GETCHAIN, family: t.Family,
			body: func(m *message) {
				m.str(unix.NFTA_CHAIN_TABLE, t.Name)
				m.str(unix.NFTA_CHAIN_NAME, chain)
			},
			each: func(r reply) { put(r, unix.NFTA_CHAIN_HANDLE, unix.NFTA_CHAIN_USE) },
		})
	}
	return stamp.String(), err
}

const nftaTableHandle = 4 // NFTA_TABLE_HANDLE, linux/netfilter/nf_tables.h; missing in x/sys
