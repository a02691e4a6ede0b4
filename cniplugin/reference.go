package cniplugin

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/internal/xtables"
	"github.com/podweft/podweft/node/local"
)

// A pod that the reference plugins attached may have rules beside its link: portmap's for its host ports, and those by which bridge
// and ptp masquerade. They are about its address, whoever gets that next. DEL looks for them only where it finds no record of ours.

const (
	theirTable         = "nat" // of iptables
	theirMaxChain      = 28    // maxChainLength in pkg/utils/utils.go of the reference plugins
	theirHostPorts     = "cni_hostport"
	theirMasquerade    = "cni_plugins_masquerade"
	theirHashInComment = 16 // hashForInstance in their pkg/ip/ipmasq_nftables_linux.go
)

// theirHash is how they begin what they name after something.
func theirHash(of string, length int) string {
	sum := sha512.Sum512([]byte(of))
	return hex.EncodeToString(sum[:])[:length]
}

// theirChains are the chains of attachments in iptables: portmap's, that which its first versions had too, and what masquerades, which
// is none of portmap's business.
func (t *task) theirChains(gone []attachment) (names []string) {
	prefixes := []string{"CNI-DN-", "CNI-SN-", "CNI-"}
	if t.call.Type == "portmap" {
		prefixes = prefixes[:2]
	}
	for _, a := range gone {
		for _, prefix := range prefixes {
			names = append(names, prefix+theirHash(t.config.Name+a.ContainerID, theirMaxChain-len(prefix)))
		}
	}
	return names
}

// forgetReference removes the rules that the reference plugins have made for the call's pod, and what is tracked of connections to
// its host ports. That only once: where there are no rules any more, the ports may lead to another pod.
func (t *task) forgetReference() error {
	found, err := t.removeTheirs(attachment{t.container, t.ifname})
	if err != nil || !found {
		return err
	}
	if err := t.forgetFlows(); err != nil {
		t.log.WarnContext(t.ctx, "connections to host ports may go on", "err", err)
	}
	return nil
}

// forgetFlows does so as far as the runtime names the ports and the pod's addresses.
func (t *task) forgetFlows() error {
	ports, err := t.config.hostPorts()
	if err != nil {
		return err
	}
	before, err := t.config.previous()
	if err != nil || before == nil || len(ports) == 0 {
		return err
	}
	rec := local.Record{HostPorts: ports}
	for _, a := range podAddresses(before, t.ifname) {
		rec.Addresses = append(rec.Addresses, a.prefix)
	}
	return t.closePorts(rec)
}

// removeTheirs removes the rules of attachments and reports whether there were any.
func (t *task) removeTheirs(gone ...attachment) (found bool, err error) {
	found, err = t.removeFromNFTables(gone)
	errs := []error{err}
	for _, family := range []xtables.Family{xtables.IPv4, xtables.IPv6} {
		some, err := t.removeFromOldTables(family, gone)
		found = found || some
		errs = append(errs, err)
	}
	return found, errors.Join(errs...)
}

// removeFromNFTables removes chains of iptables-nft and, from the tables that the reference plugins have since their version 1.6 where
// they are told to use nftables, the rules that a comment says to be an attachment's.
func (t *task) removeFromNFTables(gone []attachment) (found bool, err error) {
	conn, err := nft.Open(t.cfg.NetNS)
	if errors.Is(err, podweft.ErrNotSupported) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer conn.Close()
	var b nft.Batch
	var errs []error
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		errs = append(errs,
			conn.RemoveChains(t.ctx, &b, nft.Table{Family: family, Name: theirTable}, t.theirChains(gone)...),
			removeCommented(t.ctx, conn, &b, nft.Table{Family: family, Name: theirHostPorts}, func(comment string) bool {
				return slices.ContainsFunc(gone, func(a attachment) bool { return a.ContainerID == comment })
			}))
	}
	if t.call.Type != "portmap" {
		errs = append(errs, removeCommented(t.ctx, conn, &b, nft.Table{Family: nft.INet, Name: theirMasquerade}, t.masqueradesOne(gone)))
	}
	for _, err := range errs {
		if err != nil && !errors.Is(err, podweft.ErrNotSupported) {
			return false, err
		}
	}
	return b.Len() > 0, conn.Commit(t.ctx, &b)
}

// masqueradesOne reports whether a comment is of a rule that masquerades one of the attachments.
func (t *task) masqueradesOne(gone []attachment) func(comment string) bool {
	return func(comment string) bool {
		return slices.ContainsFunc(gone, func(a attachment) bool {
			of := theirHash(t.config.Name, theirHashInComment) + "-" + theirHash(a.IfName+":"+a.ContainerID, theirHashInComment)
			return strings.HasPrefix(comment, of)
		})
	}
}

// removeCommented adds to b what removes the rules from a table, if there is one, whose comment is one of those.
func removeCommented(ctx context.Context, conn *nft.Conn, b *nft.Batch, table nft.Table, one func(comment string) bool) error {
	_, err := conn.Table(ctx, table)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	rules, err := conn.Rules(ctx, table)
	for _, r := range rules {
		if one(r.Comment) {
			b.DeleteRule(r)
		}
	}
	return err
}

// removeFromOldTables removes chains of iptables-legacy, whose program is run where the table is in use.
func (t *task) removeFromOldTables(family xtables.Family, gone []attachment) (found bool, err error) {
	used, err := xtables.InUse(t.cfg.NetNS, family, theirTable)
	if errors.Is(err, fs.ErrPermission) { // as an ordinary user, in a namespace of his own, where nobody else's rules are
		return false, nil
	}
	if err != nil || !used {
		return false, err
	}
	rules, err := xtables.Run(t.ctx, t.cfg.NetNS, family, "-t", theirTable, "-S")
	if errors.Is(err, xtables.ErrNoProgram) {
		t.log.WarnContext(t.ctx, "rules of the reference plugins may be left", "err", err)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	commands := xtables.Removal(theirTable, rules, t.theirChains(gone)...)
	for _, c := range commands {
		if _, err := xtables.Run(t.ctx, t.cfg.NetNS, family, c...); err != nil {
			return true, err
		}
	}
	return len(commands) > 0, nil
}
