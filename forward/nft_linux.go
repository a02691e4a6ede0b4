package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
)

// compareNFT lists what is to be changed in the family's nf_tables.
func (d *Driver) compareNFT(ctx context.Context, f family, spec Spec) ([]step, error) {
	drops, have, err := d.read(ctx, f)
	if err != nil {
		return nil, err
	}
	var want []nft.Rule
	if drops {
		for way, p := range f.matches(spec) {
			want = append(want, f.accept(way, p, d.mark))
		}
	}
	var steps []step
	for _, r := range have {
		if i := slices.IndexFunc(want, func(w nft.Rule) bool { return w.Same(r) }); i >= 0 {
			want = slices.Delete(want, i, i+1)
			continue
		}
		steps = append(steps, d.step(podweft.Delete, r, func(b *nft.Batch) { b.DeleteRule(r) }))
	}
	for _, r := range want {
		steps = append(steps, d.step(podweft.Create, r, func(b *nft.Batch) { b.AddRule(r) }))
	}
	return steps, nil
}

func (d *Driver) step(op podweft.Op, r nft.Rule, fill func(*nft.Batch)) step {
	return step{podweft.Change{Op: op, Object: r}, func(ctx context.Context) error {
		var b nft.Batch
		fill(&b)
		err := d.conn.Commit(ctx, &b)
		var refused *nft.TransactionError
		switch {
		case op == podweft.Delete && errors.Is(err, fs.ErrNotExist):
			return nil // it went by itself
		case errors.As(err, &refused) && len(refused.Failed) == 1:
			return refused.Failed[0]
		}
		return err
	}}
}

// read returns whether the chain drops what nobody accepts, and our rules in it.
func (d *Driver) read(ctx context.Context, f family) (drops bool, ours []nft.Rule, err error) {
	if d.conn == nil {
		return false, nil, nil
	}
	chains, err := d.conn.Chains(ctx, f.table())
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, podweft.ErrNotSupported) { // there is no table, or no nf_tables
		return false, nil, nil
	}
	if err != nil {
		return false, nil, err
	}
	i := slices.IndexFunc(chains, func(c nft.Chain) bool { return c.Name == chainName && c.Base.Hook == nft.Forward })
	if i < 0 {
		return false, nil, nil
	}
	rules, err := d.conn.Rules(ctx, f.table())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil, nil
	}
	ours = slices.DeleteFunc(rules, func(r nft.Rule) bool { return r.Chain != chainName || r.Comment != d.mark })
	return chains[i].Base.Policy == nft.Drop, ours, err
}

// accept is one rule, in the form that iptables-nft writes and reads: it refuses to list a table in which it does not know one.
func (f family) accept(way direction, p netip.Prefix, mark string) nft.Rule {
	offset := f.source
	if way.to {
		offset += f.size
	}
	network, whole := p.Addr().AsSlice(), p.Bits()/8
	exprs := []expr.Any{
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(whole)},
	}
	if rest := p.Bits() % 8; rest == 0 {
		network = network[:whole]
	} else {
		mask := append(bytes.Repeat([]byte{0xff}, whole), 0xff<<(8-rest))
		mask = append(mask, make([]byte, len(network)-len(mask))...)
		exprs = []expr.Any{
			&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size},
			&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: f.size, Mask: mask, Xor: make([]byte, f.size)},
		}
	}
	return nft.Rule{
		Table: f.table(), Chain: chainName, Comment: mark,
		Text: fmt.Sprintf("%s %s %s accept", f.word, way.word, p),
		Exprs: append(exprs,
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: network},
			&expr.Counter{},
			&expr.Verdict{Kind: expr.VerdictAccept},
		),
	}
}
