package adopt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/xtables"
)

// Leftover is something that another pod network has left on a node, or still looks after.
type Leftover struct {
	By     string // "Calico" or "flannel"
	Object string // as `ip` and nft call it: "link vxlan.calico"
}

// String is the leftover as a line for people.
func (l Leftover) String() string { return l.Object + " (" + l.By + ")" }

// protoBird is what BIRD, Calico's speaker, marks its routes with (RTPROT_BIRD in linux/rtnetlink.h); Felix marks its own with
// protoFelix (defaultDataplane's DeviceRouteProtocol, 80 unless configured).
const (
	protoBird  = unix.RTPROT_BIRD
	protoFelix = 80
)

// Leftovers names what Calico and flannel have left in the network namespace at netns (empty: the caller's), and touches none of it:
// links, routes by their protocol, and chains; and routes like flannel's to parts of these networks, which are the pods'. What bears a
// mark of this SDK's is not among it. The list is what could be read; the error says what could not.
func Leftovers(ctx context.Context, netns string, networks ...netip.Prefix) ([]Leftover, error) {
	conn, err := nl.Dial(netns)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	found, err := leftLinks(conn)
	if err != nil {
		return nil, err
	}
	routes, err := leftRoutes(ctx, conn, networks)
	chains, unread := leftChains(ctx, netns)
	found = append(append(found, routes...), chains...)
	slices.SortStableFunc(found, func(a, b Leftover) int { return cmp.Compare(a.By, b.By) })
	return found, errors.Join(err, unread)
}

// leftLinks are links by their names. tunl0 appears by itself in every namespace of a kernel with IP in IP, and is Calico's where it has
// an address.
func leftLinks(conn *nl.Conn) (found []Leftover, err error) {
	links, err := conn.Links()
	if err != nil {
		return nil, err
	}
	addrs, err := conn.Addresses(0)
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		addressed := slices.ContainsFunc(addrs, func(a nl.Address) bool { return a.Link == l.Index && !a.LinkScope })
		by := ""
		switch {
		case strings.HasPrefix(l.Alias, "podweft:"):
		case l.Name == "tunl0" && addressed, strings.HasPrefix(l.Name, "cali"),
			slices.Contains([]string{"vxlan.calico", "vxlan-v6.calico", "wireguard.cali", "wg-v6.cali", "bpfin.cali", "bpfout.cali"}, l.Name):
			by = "Calico"
		case strings.HasPrefix(l.Name, "flannel"):
			by = "flannel"
		}
		if by != "" {
			found = append(found, Leftover{by, "link " + l.Name})
		}
	}
	return found, nil
}

// leftRoutes counts routes by what their protocol says of who made them. Those of flannel say none, which the kernel calls boot, and
// lead to a node's subnet by way of that node. So do routes that an administrator types: they are in the way all the same.
func leftRoutes(ctx context.Context, conn *nl.Conn, networks []netip.Prefix) (found []Leftover, err error) {
	count, into := map[uint8]int{}, map[netip.Prefix]int{}
	err = conn.Routes(ctx, func() { clear(count); clear(into) }, func(r nl.Route) {
		count[r.Protocol]++
		if r.Table != nl.TableMain || r.Protocol != unix.RTPROT_BOOT || !r.Gateway.IsValid() {
			return
		}
		for _, n := range networks {
			if n.Contains(r.Prefix.Addr()) && n.Bits() < r.Prefix.Bits() {
				into[n]++
			}
		}
	})
	for _, of := range []struct {
		protocol uint8
		name     string
	}{{protoBird, "BIRD's"}, {protoFelix, "Felix's"}} {
		if n := count[of.protocol]; n > 0 {
			found = append(found, Leftover{"Calico", fmt.Sprintf("%d routes of proto %d, %s", n, of.protocol, of.name)})
		}
	}
	for _, n := range networks {
		if into[n] > 0 {
			found = append(found, Leftover{"flannel", fmt.Sprintf("%d routes of proto boot into %s, as flannel's are", into[n], n)})
		}
	}
	return found, err
}

// chainsOf begin the names of chains, and of tables.
var chainsOf = []struct{ prefix, by string }{{"cali-", "Calico"}, {"calico", "Calico"}, {"FLANNEL-", "flannel"}, {"flannel-", "flannel"}}

func chainBy(name string) string {
	for _, c := range chainsOf {
		if strings.HasPrefix(name, c.prefix) {
			return c.by
		}
	}
	return ""
}

// leftChains are chains of iptables, in nf_tables and in the old tables, and tables of nft. Of chains in a table there is one line.
func leftChains(ctx context.Context, netns string) (found []Leftover, err error) {
	var errs []error
	conn, err := nft.Open(netns)
	switch {
	case err == nil:
		defer conn.Close()
		some, err := newChains(ctx, conn)
		found, errs = append(found, some...), append(errs, err)
	case !errors.Is(err, podweft.ErrNotSupported):
		errs = append(errs, err)
	}
	for _, family := range []xtables.Family{xtables.IPv4, xtables.IPv6} {
		for _, table := range []string{"raw", "mangle", "nat", "filter"} {
			some, err := oldChains(ctx, netns, family, table)
			found, errs = append(found, some...), append(errs, err)
		}
	}
	return found, errors.Join(errs...)
}

func newChains(ctx context.Context, conn *nft.Conn) (found []Leftover, err error) {
	var errs []error
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6, nft.INet} {
		tables, err := conn.Tables(ctx, family)
		errs = append(errs, err)
		for _, t := range tables {
			if by := chainBy(t.Name); by != "" {
				found = append(found, Leftover{by, t.ID()})
				continue
			}
			chains, err := conn.Chains(ctx, t.Table)
			if !absent(err) {
				errs = append(errs, err)
			}
			var names []string
			for _, c := range chains {
				names = append(names, c.Name)
			}
			found = append(found, chainsIn(t.ID(), names)...)
		}
	}
	return found, errors.Join(errs...)
}

// oldChains looks into a table of iptables-legacy, where there is one and its program.
func oldChains(ctx context.Context, netns string, family xtables.Family, table string) ([]Leftover, error) {
	used, err := xtables.InUse(netns, family, table)
	if err != nil || !used {
		return nil, err
	}
	text, err := xtables.Run(ctx, netns, family, "-t", table, "-S")
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(text) {
		if words := xtables.Words(line); len(words) == 2 && words[0] == "-N" {
			names = append(names, words[1])
		}
	}
	return chainsIn(fmt.Sprintf("table %s of %s", table, family), names), nil
}

// chainsIn counts chains by who makes such.
func chainsIn(table string, names []string) (found []Leftover) {
	count := map[string]int{}
	for _, name := range names {
		count[chainBy(name)]++
	}
	for _, by := range []string{"Calico", "flannel"} {
		if count[by] > 0 {
			found = append(found, Leftover{by, fmt.Sprintf("%d chains in %s", count[by], table)})
		}
	}
	return found
}
