package cniplugin

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

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

// theirPortChains are the chains of theirHostPorts that have rules of containers (plugins/meta/portmap/portmap_nftables.go).
var theirPortChains = []string{"hostports", "hostip_hostports", "masquerading"}

// removalTries is how often a removal is begun anew because something of it had gone meanwhile.
const removalTries = 8

// theirHash is how they begin what they name after something.
func theirHash(of string, length int) string {
	sum := sha512.Sum512([]byte(of))
	return hex.EncodeToString(sum[:])[:length]
}

// tenant is an attachment that the reference plugins have made. Its addresses, where anybody knows them, are asked for if it has rules.
type tenant struct {
	attachment
	addresses func() []netip.Addr
}

// theirs says whose rules are to go.
type theirs struct {
	*task
	gone []tenant
	live map[attachment]bool
	all  bool // every attachment of the network is gone that is not live
}

// lives reports whether another attachment of the container is known to live.
func (g theirs) lives(container string) bool {
	for a := range g.live {
		if a.ContainerID == container {
			return true
		}
	}
	return false
}

// chainsOf are a container's chains in iptables: portmap's, that which its first versions had too, and what masquerades, which is none
// of portmap's business. Its attachments to one network share them.
func (g theirs) chainsOf(container string) (names []string) {
	prefixes := []string{"CNI-DN-", "CNI-SN-", "CNI-"}
	if g.call.Type == "portmap" {
		prefixes = prefixes[:2]
	}
	for _, prefix := range prefixes {
		names = append(names, prefix+theirHash(g.config.Name+container, theirMaxChain-len(prefix)))
	}
	return names
}

// chains are those of the attachments that are known to be gone.
func (g theirs) chains() (names []string) {
	for _, a := range g.gone {
		if !g.lives(a.ContainerID) {
			names = append(names, g.chainsOf(a.ContainerID)...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names) // an attachment has an address of each family
}

// leadsToDead reports whether a rule of iptables leads to the chain of a container of the network which is not live: its comment has
// the names that the chain's name is a hash of.
func (g theirs) leadsToDead(comment, chain string) bool {
	_, container, ok := strings.Cut(comment, `name: "`+g.config.Name+`" id: "`)
	container, whole := strings.CutSuffix(container, `"`)
	return g.all && ok && whole && !g.lives(container) && slices.Contains(g.chainsOf(container), chain)
}

// publishes reports whether a rule of theirHostPorts opens a host port of an attachment that is gone. Its comment names the container,
// which may have attachments to several networks, so it goes by the address too. Where nobody knows that any more it is as with portmap
// itself, which deletes all of the container's if the runtime names ports, and else none: such a DEL is the second one of a pod, or of an
// attachment without host ports.
func (g theirs) publishes(r nft.Rule) bool {
	return slices.Contains(theirPortChains, r.Chain) && slices.ContainsFunc(g.gone, func(a tenant) bool {
		if a.ContainerID != r.Comment {
			return false
		}
		all := a.addresses()
		if len(all) == 0 {
			return len(g.config.RuntimeConfig.PortMappings) > 0
		}
		return slices.ContainsFunc(all, func(address netip.Addr) bool { return r.Names(address.AsSlice()) })
	})
}

// masquerades reports whether a rule of theirMasquerade is for an attachment that is gone.
func (g theirs) masquerades(r nft.Rule) bool {
	comment := func(a attachment) string {
		return theirHash(g.config.Name, theirHashInComment) + "-" + theirHash(a.IfName+":"+a.ContainerID, theirHashInComment)
	}
	is := func(a attachment) bool { return strings.HasPrefix(r.Comment, comment(a)) }
	if g.all && strings.HasPrefix(r.Comment, theirHash(g.config.Name, theirHashInComment)+"-") {
		return !slices.ContainsFunc(slices.Collect(maps.Keys(g.live)), is)
	}
	return slices.ContainsFunc(g.gone, func(a tenant) bool { return is(a.attachment) })
}

// forgetReference removes the rules that the reference plugins have made for the call's pod, and what is tracked of connections to
// its host ports. That only once: where there are no rules any more, the ports may lead to another pod.
func (t *task) forgetReference() error {
	pod := tenant{attachment{t.container, t.ifname}, sync.OnceValue(t.addresses)}
	found, err := theirs{task: t, gone: []tenant{pod}}.remove()
	if err != nil || !found {
		return err
	}
	if err := t.forgetFlows(); err != nil {
		t.log.WarnContext(t.ctx, "connections to host ports may go on", "err", err)
	}
	return nil
}

// addresses are those that the runtime, our own store or host-local knows the call's attachment by.
func (t *task) addresses() (all []netip.Addr) {
	if before, err := t.config.previous(); err == nil && before != nil {
		for _, a := range podAddresses(before, t.ifname) {
			all = append(all, a.prefix.Addr())
		}
	}
	if len(all) == 0 && t.call.Type != "portmap" && t.stores() {
		if pool, err := t.pool(nil); err == nil {
			defer pool.Close()
			held, _ := pool.Lookup(t.ctx, t.owner()) // what cannot be read is not released either
			all = addressesOf(held)
		}
	}
	if len(all) > 0 {
		return all
	}
	for _, held := range t.heldOfHostLocal() {
		if held.is(attachment{t.container, t.ifname}) {
			all = append(all, held.address)
		}
	}
	return all
}

// collectReference removes the rules of attachments that are gone, as far as the rules themselves or host-local say whose they are.
func (t *task) collectReference() error {
	g := theirs{task: t, live: t.config.live(), all: true}
	for _, held := range t.heldOfHostLocal() {
		if a := held.attachment; a.IfName != "" && !g.live[a] {
			g.gone = append(g.gone, tenant{a, func() []netip.Addr { return []netip.Addr{held.address} }})
		}
	}
	_, err := g.remove()
	return err
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

// remove removes the rules and reports whether there were any. Others, such as another DEL, may remove the same ones at this moment.
func (g theirs) remove() (found bool, err error) {
	removals := []func() (bool, error){
		g.fromNFTables,
		func() (bool, error) { return g.fromOldTables(xtables.IPv4) },
		func() (bool, error) { return g.fromOldTables(xtables.IPv6) },
	}
	var errs []error
	for _, removal := range removals {
		for try := 1; ; try++ {
			some, err := removal()
			found = found || some
			if try == removalTries || !moved(err) {
				errs = append(errs, err)
				break
			}
		}
	}
	return found, errors.Join(errs...)
}

// moved reports whether err is what one gets for removing what somebody else removes, or leads to, at this moment.
func moved(err error) bool {
	var refused *exec.ExitError
	if errors.As(err, &refused) {
		return refused.ExitCode() == 1 // no such rule or chain; a lock that is taken is 4 (enum xtables_exittype in xtables.h)
	}
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EBUSY) || errors.Is(err, nft.ErrInterrupted)
}

// fromNFTables removes chains of iptables-nft and, from the tables that the reference plugins have since their version 1.6 where
// they are told to use nftables, the rules that a comment says to be an attachment's.
func (g theirs) fromNFTables() (found bool, err error) {
	conn, err := nft.Open(g.cfg.NetNS)
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
			g.removeChains(conn, &b, nft.Table{Family: family, Name: theirTable}),
			g.removeRules(conn, &b, nft.Table{Family: family, Name: theirHostPorts}, g.publishes))
	}
	if g.call.Type != "portmap" {
		errs = append(errs, g.removeRules(conn, &b, nft.Table{Family: nft.INet, Name: theirMasquerade}, g.masquerades))
	}
	for _, err := range errs {
		if err != nil && !errors.Is(err, podweft.ErrNotSupported) {
			return false, err
		}
	}
	return b.Len() > 0, conn.Commit(g.ctx, &b)
}

// removeChains adds to b what removes chains of iptables-nft.
func (g theirs) removeChains(conn *nft.Conn, b *nft.Batch, table nft.Table) error {
	names := g.chains()
	if g.all {
		rules, err := rulesOf(g.ctx, conn, table)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if chain := r.Target(); chain != "" && !slices.Contains(names, chain) && g.leadsToDead(r.XTComment(), chain) {
				names = append(names, chain)
			}
		}
	}
	return conn.RemoveChains(g.ctx, b, table, names...)
}

// removeRules adds to b what removes those rules from a table.
func (g theirs) removeRules(conn *nft.Conn, b *nft.Batch, table nft.Table, those func(nft.Rule) bool) error {
	rules, err := rulesOf(g.ctx, conn, table)
	for _, r := range rules {
		if those(r) {
			b.DeleteRule(r)
		}
	}
	return err
}

// rulesOf are the rules of a table, none where there is no such table.
func rulesOf(ctx context.Context, conn *nft.Conn, table nft.Table) ([]nft.Rule, error) {
	_, err := conn.Table(ctx, table)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return conn.Rules(ctx, table)
}

// fromOldTables removes chains of iptables-legacy, whose program is run where the table is in use.
func (g theirs) fromOldTables(family xtables.Family) (found bool, err error) {
	used, err := xtables.InUse(g.cfg.NetNS, family, theirTable)
	if errors.Is(err, fs.ErrPermission) { // as an ordinary user, in a namespace of his own, where nobody else's rules are
		return false, nil
	}
	if err != nil || !used {
		return false, err
	}
	rules, err := xtables.Run(g.ctx, g.cfg.NetNS, family, "-t", theirTable, "-S")
	if errors.Is(err, xtables.ErrNoProgram) {
		g.log.WarnContext(g.ctx, "rules of the reference plugins may be left", "err", err)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	commands := xtables.Removal(theirTable, rules, append(g.chains(), g.deadChains(rules)...)...)
	for _, c := range commands {
		if _, err := xtables.Run(g.ctx, g.cfg.NetNS, family, c...); err != nil {
			return true, err
		}
	}
	return len(commands) > 0, nil
}

// deadChains are those that a rule leads to, in what iptables -S has said, whose container is not live.
func (g theirs) deadChains(rules string) (names []string) {
	for line := range strings.Lines(rules) {
		words := xtables.Words(line)
		comment, target := slices.Index(words, "--comment")+1, slices.Index(words, "-j")+1
		if comment > 0 && target > 0 && max(comment, target) < len(words) && g.leadsToDead(words[comment], words[target]) {
			names = append(names, words[target])
		}
	}
	return names
}
