package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
)

// bridgeCalls are what takes the packets between ports of a bridge to the hooks of IP: br_netfilter's own switches, which each
// namespace has for itself since Linux 5.3.
var bridgeCalls = []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"}

// bridges sees to it that the packets between ports of spec's bridges come by our chains, or else do not come through at all. It
// returns what it did; the error is why a bridge is closed, and without a plan, why it is neither.
func (d *Driver) bridges(ctx context.Context, spec Spec) (podweft.Plan, error) {
	if spec.Rules == nil || len(spec.Bridges) == 0 {
		return d.openBridges(ctx)
	}
	for _, key := range bridgeCalls {
		if err := d.ensure(d.netns, key, "1"); err != nil {
			plan, cerr := d.closeBridges(ctx, spec.Bridges)
			return plan, errors.Join(fmt.Errorf("policies between ports of a bridge need br_netfilter: %w", err), cerr)
		}
	}
	return d.openBridges(ctx)
}

func (d *Driver) bridgeTable() nft.Table { return nft.Table{Family: nft.Bridge, Name: d.table.Name} }

// closeBridges drops IP between the ports of bridges. ARP may pass: it tells nobody anything that it should not. A kernel that
// cannot tell one bridge from another (nft_meta_bridge, a module of its own) has all of the namespace closed.
func (d *Driver) closeBridges(ctx context.Context, names []string) (podweft.Plan, error) {
	change := podweft.Change{Op: podweft.Update, Object: d.bridgeTable(), Note: "closes " + strings.Join(names, ", ") + ", which policies cannot reach"}
	err := d.close(ctx, names)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		change.Note = "closes all bridges: policies cannot reach " + strings.Join(names, ", ")
		err = d.close(ctx, []string{""})
	}
	if err != nil {
		change.Err = fmt.Errorf("bridges stay open: %w", explain(err))
	}
	return podweft.Plan{change}, change.Err
}

// close drops IP on bridges; an empty name is every one.
func (d *Driver) close(ctx context.Context, names []string) error {
	table := d.bridgeTable()
	chain := nft.Chain{Table: table, Name: "forward", Base: nft.Base{Type: "filter", Hook: nft.Forward, Priority: bridgePriority, Policy: nft.Accept}}
	var b nft.Batch
	b.AddTable(table, 0)
	b.AddChain(chain)
	b.FlushChain(chain)
	for _, name := range names {
		for _, protocol := range []uint16{unix.ETH_P_IP, unix.ETH_P_IPV6} {
			r := renderer{table: table}
			b.AddRule(r.rule(chain.Name, "no br_netfilter to ask policies with", onBridge(name), etherType(protocol), drop()))
		}
	}
	return d.conn.Commit(ctx, &b)
}

// bridgePriority is that of filter chains in the bridge family, NF_BR_PRI_FILTER_BRIDGED.
const bridgePriority = -200

func onBridge(name string) statement {
	if name == "" {
		return statement{}
	}
	return statement{fmt.Sprintf("meta ibrname %q", name), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyBRIIIFNAME, Register: unix.NFT_REG_1},
		equal(append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)),
	}}
}

func etherType(t uint16) statement {
	return statement{fmt.Sprintf("meta protocol %#04x", t), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: unix.NFT_REG_1}, equal(binary.BigEndian.AppendUint16(nil, t)),
	}}
}

// openBridges removes what closeBridges has made.
func (d *Driver) openBridges(ctx context.Context) (podweft.Plan, error) {
	table := d.bridgeTable()
	if _, err := d.conn.Table(ctx, table); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			err = nil // there is none, or no such family
		}
		return nil, err
	}
	var b nft.Batch
	b.DeleteTable(table)
	plan := podweft.Plan{{Op: podweft.Delete, Object: table, Note: "policies reach the bridges"}}
	if err := d.conn.Commit(ctx, &b); err != nil && !moved(err) {
		plan[0].Err = err
	}
	return plan, plan.Err()
}
