package bridges

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
	"github.com/podweft/podweft/internal/sysctl"
)

// Gate is what keeps the bridges of a namespace closed where policies do not reach them.
type Gate struct {
	NetNS string
	// Name is that of a table of nf_tables' family bridge.
	Name string
	// Conn speaks to nf_tables of that namespace; nil opens one each time.
	Conn *nft.Conn
	// Ensure sets a sysctl in a namespace; nil is the ordinary way.
	Ensure func(netns, key, value string) error
}

// calls are what takes the packets between ports of a bridge to the hooks of IP: br_netfilter's own switches, which each namespace
// has for itself since Linux 5.3.
var calls = []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"}

// Reach makes packets on the bridges of these names come by the hooks of IP, or closes the bridges to IP. It returns what it did; the
// error is why a bridge is closed, or why it is neither.
func (g Gate) Reach(ctx context.Context, names []string) (podweft.Plan, error) {
	if len(names) == 0 {
		return g.open(ctx)
	}
	ensure := g.Ensure
	if ensure == nil {
		ensure = sysctl.Ensure
	}
	for _, key := range calls {
		if err := ensure(g.NetNS, key, "1"); err != nil {
			plan, cerr := g.close(ctx, names)
			return plan, errors.Join(fmt.Errorf("policies between ports of a bridge need br_netfilter: %w", err), cerr)
		}
	}
	return g.open(ctx)
}

// conn is who speaks to nf_tables, and what closes it afterwards.
func (g Gate) conn() (*nft.Conn, func(), error) {
	if g.Conn != nil {
		return g.Conn, func() {}, nil
	}
	conn, err := nft.Open(g.NetNS)
	return conn, func() { conn.Close() }, err
}

// Table is what closes bridges. It is there only then.
func (g Gate) Table() nft.Table { return nft.Table{Family: nft.Bridge, Name: g.Name} }

// close drops IP between the ports of bridges. ARP may pass: it tells nobody anything that it should not. A kernel that cannot tell one
// bridge from another (nft_meta_bridge, a module of its own) has all of the namespace closed.
func (g Gate) close(ctx context.Context, names []string) (podweft.Plan, error) {
	change := podweft.Change{Op: podweft.Update, Object: g.Table(), Note: "closes " + strings.Join(names, ", ") + ", which policies cannot reach"}
	conn, done, err := g.conn()
	if err == nil {
		defer done()
		err = g.drop(ctx, conn, names)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		change.Note = "closes all bridges: policies cannot reach " + strings.Join(names, ", ")
		err = g.drop(ctx, conn, []string{""})
	}
	if err != nil {
		change.Err = fmt.Errorf("bridges stay open: %w", err)
	}
	return podweft.Plan{change}, change.Err
}

// drop drops IP on bridges; an empty name is every one.
func (g Gate) drop(ctx context.Context, conn *nft.Conn, names []string) error {
	chain := nft.Chain{Table: g.Table(), Name: "forward", Base: nft.Base{Type: "filter", Hook: nft.Forward, Priority: bridgePriority, Policy: nft.Accept}}
	var b nft.Batch
	b.AddTable(g.Table(), 0)
	b.AddChain(chain)
	b.FlushChain(chain)
	for _, name := range names {
		for _, protocol := range []uint16{unix.ETH_P_IP, unix.ETH_P_IPV6} {
			rule := nft.Rule{Table: g.Table(), Chain: chain.Name, Comment: "no br_netfilter to ask policies with", Exprs: onBridge(name)}
			rule.Text = fmt.Sprintf("meta protocol %#04x drop", protocol)
			rule.Exprs = append(rule.Exprs,
				&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: unix.NFT_REG_1},
				equal(binary.BigEndian.AppendUint16(nil, protocol)),
				&expr.Verdict{Kind: expr.VerdictDrop})
			b.AddRule(rule)
		}
	}
	return conn.Commit(ctx, &b)
}

// bridgePriority is that of filter chains in the bridge family, NF_BR_PRI_FILTER_BRIDGED.
const bridgePriority = -200

func onBridge(name string) []expr.Any {
	if name == "" {
		return nil
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyBRIIIFNAME, Register: unix.NFT_REG_1},
		equal(append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)),
	}
}

func equal(data []byte) *expr.Cmp {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: data}
}

// open removes what close has made. A kernel without nf_tables has nothing of it.
func (g Gate) open(ctx context.Context) (podweft.Plan, error) {
	conn, done, err := g.conn()
	if err != nil {
		return nil, nothing(err)
	}
	defer done()
	if _, err := conn.Table(ctx, g.Table()); err != nil {
		return nil, nothing(err)
	}
	var b nft.Batch
	b.DeleteTable(g.Table())
	plan := podweft.Plan{{Op: podweft.Delete, Object: g.Table(), Note: "policies reach the bridges"}}
	if err := conn.Commit(ctx, &b); err != nil && !errors.Is(err, unix.ENOENT) {
		plan[0].Err = err
	}
	return plan, plan.Err()
}

// nothing is no error where there is no such table, or no such family.
func nothing(err error) error {
	for _, none := range []error{fs.ErrNotExist, podweft.ErrNotSupported, unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT} {
		if errors.Is(err, none) {
			return nil
		}
	}
	return err
}
