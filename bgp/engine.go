package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	wire "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/podweft/podweft/internal/delta"
)

// engine is a GoBGP server and what it has been told, which nobody else tells it.
type engine struct {
	server     *server.BgpServer
	cfg        Config
	restarting bool
	began      time.Time

	peers []Peer
	late  latecomers
	ads   []Advertisement
}

const (
	// connectRetry is how often a peer that does not answer is dialled, in seconds; the engine's minimum.
	connectRetry = 2
	// idleAfterReset is how many seconds a session rests after BFD has ended it; as long as after any other end.
	idleAfterReset = 5
	// deferral is how many seconds after a restart a session waits for what the others tell before it advertises, so that
	// nothing is withdrawn that is only not known yet (RFC 4724, 4.1). Longer than it takes for the sessions to return.
	deferral = 10
)

var families = [...]struct {
	v4   bool
	wire wire.Family
	api  *api.Family
}{
	{true, wire.RF_IPv4_UC, &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}},
	{false, wire.RF_IPv6_UC, &api.Family{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}},
}

// beginning is held while an engine begins: it sets the process's options for path selection, to the same each time.
var beginning sync.Mutex

// startEngine begins to listen.
func startEngine(ctx context.Context, cfg Config, restarting bool) (*engine, error) {
	e := &engine{
		server: server.NewBgpServer(server.LoggerOption(slog.New(quiet{cfg.Logger.Handler()}), nil)),
		cfg:    cfg, restarting: restarting, began: time.Now(), late: latecomers{},
	}
	go e.server.Serve() // until StopBgp, which waits for it
	global := &api.Global{Asn: cfg.AS, RouterId: cfg.RouterID.String(), ListenPort: int32(cfg.Port)}
	for _, a := range cfg.Listen {
		global.ListenAddresses = append(global.ListenAddresses, a.String())
	}
	beginning.Lock()
	err := e.server.StartBgp(ctx, &api.StartBgpRequest{Global: global})
	beginning.Unlock()
	if err == nil {
		err = e.assignPolicies(ctx)
	}
	if err != nil {
		e.stop()
		return nil, fmt.Errorf("start BGP: %w", err)
	}
	return e, nil
}

// stop ends all sessions. Peers that agreed on graceful restart keep our routes.
func (e *engine) stop() {
	_ = e.server.StopBgp(context.Background(), &api.StopBgpRequest{AllowGracefulRestart: e.cfg.RestartTime > 0})
	e.server.Stop() // the BFD server too
}

// set makes the engine agree with peers and ads, both complete and sorted. It goes on past what fails.
func (e *engine) set(ctx context.Context, peers []Peer, ads []Advertisement) error {
	if len(e.peers) == 0 { // whose first session must not find nothing
		err := e.setAdvertisements(ads)
		return errors.Join(err, e.setPeers(ctx, peers))
	}
	return errors.Join(e.setPeers(ctx, peers), e.setAdvertisements(ads))
}

// holdsBack is for how long there are to be no peers yet because nobody has told what to advertise to those that have kept our
// routes: the first thing that ends a session's silence is the word that this was all (RFC 4724, 4.1), and they drop the rest.
func (e *engine) holdsBack(told bool) time.Duration {
	if told || !e.restarting {
		return 0
	}
	return max(0, deferral*time.Second-time.Since(e.began))
}

func (e *engine) setPeers(ctx context.Context, peers []Peer) error {
	removed, added := delta.Sorted(e.peers, peers, comparePeers, Peer.equal)
	if len(removed) == 0 && len(added) == 0 {
		return nil
	}
	// Filters first, or a new session would pass what they are to stop.
	if err := e.setFilters(ctx, peers); err != nil {
		return err
	}
	var errs []error
	refilter := func(o, n Peer) bool { return o.Addr == n.Addr && o.sameSession(n) }
	for _, p := range removed {
		i := slices.IndexFunc(added, func(n Peer) bool { return refilter(p, n) })
		if i >= 0 {
			errs = append(errs, e.refilter(ctx, p.Addr))
			e.peers[e.index(p)] = added[i]
			added = slices.Delete(slices.Clone(added), i, i+1)
			continue
		}
		if err := e.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: p.Addr.String()}); err != nil {
			errs = append(errs, fmt.Errorf("remove peer %s: %w", p, err))
		}
		i = e.index(p)
		e.peers = slices.Delete(e.peers, i, i+1)
		delete(e.late, p.Addr)
	}
	for _, p := range added {
		if err := e.server.AddPeer(ctx, &api.AddPeerRequest{Peer: e.neighbor(p)}); err != nil {
			errs = append(errs, fmt.Errorf("add peer %s: %w", p, err))
			continue
		}
		e.peers = append(e.peers, p)
		e.expect(p)
	}
	slices.SortFunc(e.peers, comparePeers)
	return errors.Join(errs...)
}

func (e *engine) index(p Peer) int {
	return slices.IndexFunc(e.peers, func(o Peer) bool { return o.Addr == p.Addr })
}

// refilter applies changed filters to what has been exchanged with a peer, without touching the session.
func (e *engine) refilter(ctx context.Context, peer netip.Addr) error {
	return e.server.ResetPeer(ctx, &api.ResetPeerRequest{Address: peer.String(), Soft: true, Direction: api.ResetPeerRequest_DIRECTION_BOTH})
}

func (e *engine) neighbor(p Peer) *api.Peer {
	hold := uint64(p.HoldTime / time.Second)
	n := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: p.Addr.String(), PeerAsn: p.AS, LocalAsn: p.LocalAS, Description: p.Name,
			AuthPassword: p.Password, AllowOwnAsn: uint32(p.AllowOwnAS),
		},
		Timers: &api.Timers{Config: &api.TimersConfig{
			ConnectRetry: connectRetry, HoldTime: hold, KeepaliveInterval: hold / 3, IdleHoldTimeAfterReset: idleAfterReset,
		}},
		Transport: &api.Transport{PassiveMode: p.Passive, RemotePort: uint32(p.Port)},
	}
	if p.Local.IsValid() {
		n.Transport.LocalAddress = p.Local.String()
	}
	if p.ReflectorClient {
		n.RouteReflector = &api.RouteReflector{RouteReflectorClient: true, RouteReflectorClusterId: e.cfg.ClusterID.String()}
	}
	if p.external() && p.Multihop > 1 {
		n.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: uint32(p.Multihop)}
	}
	if p.TTLSecurity > 0 {
		n.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: uint32(256 - p.TTLSecurity)} // who sends sets 255, and each hop takes one
	}
	if p.BFD.Interval > 0 {
		interval := uint32(p.BFD.Interval / time.Microsecond)
		n.Bfd = &api.BfdPeerConfig{
			Enabled: true, Port: server.BfdServerPort,
			DesiredMinimumTxInterval: interval, RequiredMinimumReceive: interval, DetectionMultiplier: uint32(p.BFD.Multiplier),
		}
	}
	graceful := e.cfg.RestartTime > 0
	if graceful {
		n.GracefulRestart = &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(e.cfg.RestartTime / time.Second), DeferralTime: deferral,
			LocalRestarting: e.restarting,
		}
	}
	for _, f := range families {
		n.AfiSafis = append(n.AfiSafis, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: f.api, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: graceful}},
		})
	}
	return n
}

func (e *engine) setAdvertisements(ads []Advertisement) error {
	removed, added := delta.Sorted(e.ads, ads, compareAdvertisements, Advertisement.equal)
	var errs []error
	for _, a := range removed {
		if slices.ContainsFunc(added, func(n Advertisement) bool { return n.Prefix == a.Prefix }) {
			continue // the new path takes the old one's place, and nobody sees a withdrawal
		}
		if err := e.server.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{pathOf(a)}}); err != nil {
			errs = append(errs, fmt.Errorf("withdraw %s: %w", a.Prefix, err))
		}
	}
	if len(added) > 0 {
		paths := make([]*apiutil.Path, 0, len(added))
		for _, a := range added {
			paths = append(paths, pathOf(a))
		}
		if _, err := e.server.AddPath(apiutil.AddPathRequest{Paths: paths}); err != nil {
			errs = append(errs, fmt.Errorf("advertise: %w", err))
		}
	}
	if len(errs) == 0 {
		e.ads = ads
	}
	return errors.Join(errs...)
}

// pathOf is a as the engine wants it. The constructors' errors are about values that complete has refused.
func pathOf(a Advertisement) *apiutil.Path {
	nlri, _ := wire.NewIPAddrPrefix(a.Prefix)
	f := families[0]
	if !a.Prefix.Addr().Is4() {
		f = families[1]
	}
	reach, _ := wire.NewPathAttributeMpReachNLRI(f.wire, []wire.PathNLRI{{NLRI: nlri}}, a.NextHop)
	p := &apiutil.Path{
		Family: f.wire, Nlri: nlri, Age: time.Now().Unix(),
		Attrs: []wire.PathAttributeInterface{wire.NewPathAttributeOrigin(0), reach},
	}
	if len(a.Communities) > 0 {
		list := make([]uint32, 0, len(a.Communities))
		for _, c := range a.Communities {
			list = append(list, uint32(c))
		}
		p.Attrs = append(p.Attrs, wire.NewPathAttributeCommunities(list))
	}
	return p
}

// learned lists the best paths to what is not our own.
func (e *engine) learned() ([]Path, error) {
	var all []Path
	for _, f := range families {
		req := apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: f.wire}
		err := e.server.ListPath(req, func(_ wire.NLRI, paths []*apiutil.Path) {
			for _, p := range paths {
				if p.Best && p.PeerAddress.IsValid() {
					all = append(all, fromWire(p))
				}
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list paths: %w", err)
		}
	}
	return all, nil
}

func fromWire(p *apiutil.Path) Path {
	out := Path{Peer: p.PeerAddress, Stale: p.Stale}
	if n, ok := p.Nlri.(*wire.IPAddrPrefix); ok {
		out.Prefix = n.Prefix
	}
	for _, attr := range p.Attrs {
		switch a := attr.(type) {
		case *wire.PathAttributeNextHop:
			out.NextHop = a.Value
		case *wire.PathAttributeMpReachNLRI:
			out.NextHop = a.Nexthop
		case *wire.PathAttributeAsPath:
			for _, segment := range a.Value {
				out.ASPath = append(out.ASPath, segment.GetAS()...)
			}
		case *wire.PathAttributeCommunities:
			for _, c := range a.Value {
				out.Communities = append(out.Communities, Community(c))
			}
		}
	}
	out.NextHop, out.Communities = out.NextHop.Unmap(), inOrder(out.Communities)
	return out
}

// watch calls the functions from now on until ctx ends, one at a time.
func (e *engine) watch(ctx context.Context, paths func(), heard func(peer netip.Addr, v4 bool), moved func(sessionEvent)) error {
	return e.server.WatchEvent(ctx, server.WatchEventMessageCallbacks{
		OnBestPath: func([]*apiutil.Path, time.Time) { paths() },
		OnPathEor: func(p *apiutil.Path, _ time.Time) {
			heard(p.PeerAddress, p.Family == wire.RF_IPv4_UC)
		},
		OnPeerUpdate: func(ev *apiutil.WatchEventMessage_PeerEvent, _ time.Time) {
			if ev.Type == apiutil.PEER_EVENT_STATE {
				s := ev.Peer.State
				ev := sessionEvent{peer: s.NeighborAddress, up: s.SessionState == wire.BGP_FSM_ESTABLISHED}
				if s.SessionState == wire.BGP_FSM_IDLE { // the engine has a reason for each step on the way up too
					ev.reason = s.DisconnectMessage
				}
				moved(ev)
			}
		},
	}, server.WatchBestPath(false), server.WatchEor(false), server.WatchPeer())
}

// sessionEvent is a session that has come to another state.
type sessionEvent struct {
	peer   netip.Addr
	up     bool
	reason string // why it went down, when it did
}

// quiet lets only the engine's warnings through: it tells of each state of each session at level info. Those that say nothing to anybody
// it drops.
type quiet struct{ slog.Handler }

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if unremarkable(r) {
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

// unremarkable reports whether a record is of what always happens: at each stop, that BGP had been stopped already; when a peer starts, that
// it has dialled while its session rests.
func unremarkable(r slog.Record) bool {
	switch r.Message {
	case "failed to stop BGP server":
		return true
	case "Closed an accepted connection":
		rests := false
		r.Attrs(func(a slog.Attr) bool {
			rests = a.Key == "State" && a.Value.String() == wire.BGP_FSM_IDLE.String()
			return !rests
		})
		return rests
	}
	return false
}

func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && q.Handler.Enabled(ctx, l)
}
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }
func (q quiet) WithGroup(name string) slog.Handler       { return quiet{q.Handler.WithGroup(name)} }
