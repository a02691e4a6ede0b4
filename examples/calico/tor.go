package calico

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/forward"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/node"
	"github.com/podweft/podweft/subnet"
)

// DefaultRouterAS is the AS of a router between racks.
const DefaultRouterAS = 64600

// Router is what stands between racks in a laboratory: it speaks BGP with the nodes on its links and routes what they have behind
// them. Real networks have a switch for that, from whom nothing is asked but BGP.
type Router struct {
	// AS is the router's; zero means DefaultRouterAS. ID is its number in the form of an address, and Port where it speaks; zero means
	// bgp.DefaultPort.
	AS   uint32
	ID   netip.Addr
	Port int
	// Links are its interfaces to the racks.
	Links []string
	// Peers are the nodes.
	Peers []bgp.Peer
	// Logger gets what happens; nil means silence.
	Logger *slog.Logger
}

// Run routes until ctx ends, and then returns nil. It works in the network namespace of its process.
func (r Router) Run(ctx context.Context) error {
	if r.AS == 0 {
		r.AS = DefaultRouterAS
	}
	speaker, err := bgp.New(bgp.Config{AS: r.AS, RouterID: r.ID, NextHop: subnet.Addrs{V4: r.ID}, Port: r.Port, Logger: r.Logger})
	if err != nil {
		return err
	}
	peers := slices.Clone(r.Peers)
	for i := range peers {
		peers[i].Transit = cmp.Or(peers[i].Transit, bgp.NextHopSelf)
	}
	if err := speaker.SetPeers(peers); err != nil {
		return err
	}
	if err := forward.Enable("", netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")); err != nil {
		return err
	}
	var racks []rack
	for _, link := range r.Links {
		one, err := newRack(link, r.Logger)
		if err != nil {
			return err
		}
		defer one.driver.Close()
		racks = append(racks, one)
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, one := range racks {
		group.Go(func() error { return one.loop.Run(ctx) })
	}
	group.Go(func() error { return speaker.Run(ctx) })
	group.Go(func() error {
		for learned := range speaker.Snapshots(ctx) {
			for _, one := range racks {
				one.loop.Set(one.spec(learned))
			}
		}
		return nil
	})
	return group.Wait()
}

// rack is a link of a router's, and what is behind the nodes there.
type rack struct {
	link     string
	networks []netip.Prefix
	driver   *hostgw.Driver
	loop     *podweft.Loop[hostgw.Spec]
}

func newRack(link string, log *slog.Logger) (rack, error) {
	networks, err := node.Networks("", link)
	if err != nil {
		return rack{}, err
	}
	d, err := hostgw.New(hostgw.Config{Owner: "router-" + link, Logger: log})
	if err != nil {
		return rack{}, err
	}
	return rack{link, networks, d, podweft.NewLoop(d, podweft.LoopConfig{Logger: log})}, nil
}

// spec routes what has its next hop on the link.
func (r rack) spec(learned *bgp.Snapshot) hostgw.Spec {
	behind := map[netip.Addr][]netip.Prefix{}
	for _, p := range learned.Paths {
		here := slices.ContainsFunc(r.networks, func(n netip.Prefix) bool { return n.Contains(p.NextHop) })
		if here && p.NextHop.Is4() == p.Prefix.Addr().Is4() {
			behind[p.NextHop] = append(behind[p.NextHop], p.Prefix)
		}
	}
	s := hostgw.Spec{Device: r.link}
	for hop, prefixes := range behind {
		s.Peers = append(s.Peers, hostgw.Peer{Node: hop.String(), Underlay: hop, Prefixes: inOrder(prefixes)})
	}
	slices.SortFunc(s.Peers, func(a, b hostgw.Peer) int { return a.Prefixes[0].Compare(b.Prefixes[0]) })
	return s
}

// tor is the command of that name.
func tor(ctx context.Context, args []string, stderr io.Writer) error {
	r := Router{Logger: slog.New(slog.NewTextHandler(stderr, nil))}
	f := flag.NewFlagSet("tor", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	r.AS = DefaultRouterAS
	f.Func("as", "", func(text string) error {
		as, err := strconv.ParseUint(text, 10, 32)
		r.AS = uint32(as)
		return err
	})
	f.IntVar(&r.Port, "port", 0, "")
	f.TextVar(&r.ID, "id", netip.Addr{}, "")
	links := f.String("links", "", "")
	f.Func("peer", "", func(text string) error {
		p, err := parsePeer(text)
		r.Peers = append(r.Peers, p)
		return err
	})
	if err := f.Parse(args); err != nil {
		return fmt.Errorf("tor: %w: write --id=ADDRESS --links=eth1,eth2 --peer=ADDRESS,AS for each node, and --as or --port where they are not the usual ones", err)
	}
	r.Links = strings.FieldsFunc(*links, func(c rune) bool { return c == ',' })
	for i := range r.Peers {
		r.Peers[i].Port, r.Peers[i].Passive = r.Port, true
	}
	return r.Run(ctx)
}

// parsePeer reads "192.0.2.1,64512".
func parsePeer(text string) (p bgp.Peer, err error) {
	address, as, _ := strings.Cut(text, ",")
	if p.Addr, err = netip.ParseAddr(address); err != nil {
		return p, err
	}
	number, err := strconv.ParseUint(as, 10, 32)
	p.AS = uint32(number)
	return p, err
}
