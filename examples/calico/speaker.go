package calico

import (
	"cmp"
	"crypto/sha256"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/subnet"
)

// speakerConfig is who the node is to its peers.
func (a *Agent) speakerConfig(self subnet.Node) bgp.Config {
	b := a.cfg.BGP
	cfg := bgp.Config{
		AS: b.AS, RouterID: b.RouterID, ClusterID: b.ClusterID, NextHop: self.Underlay, Port: b.Port, RestartTime: b.RestartTime,
		StateFile: a.speakerFile(), Logger: a.log,
	}
	if b.Bound {
		cfg.Listen = slices.Collect(self.Underlay.All())
	}
	if !cfg.RouterID.IsValid() && !self.Underlay.V4.IsValid() {
		cfg.RouterID = routerID(a.cfg.Node)
	}
	return cfg
}

// speakerFile has what was learned, for a restart.
func (a *Agent) speakerFile() string {
	return filepath.Join(a.cfg.StateDir, "bgp-"+a.cfg.Network+".json")
}

// routerID is a number in the form of an address, for a node that has no IPv4.
func routerID(node string) netip.Addr {
	sum := sha256.Sum256([]byte(node))
	return netip.AddrFrom4([4]byte{sum[0]&0x7f | 1, sum[1], sum[2], sum[3] | 1})
}

// tell says to the others what the node is and has.
func (r *run) tell(v view) error {
	n, err := r.cfg.self(r.self.Underlay)
	if err != nil {
		return err
	}
	if err := r.member.Publish(n); err != nil {
		return err
	}
	if r.speaker == nil {
		return nil
	}
	nodes := slices.DeleteFunc(slices.Clone(v.nodes), func(f fellow) bool { return f.Name == n.Name })
	if err := r.speaker.SetPeers(r.peers(append(nodes, fellow{Node: n}))); err != nil { // the mesh has us in it, as we are now
		return err
	}
	var ads []bgp.Advertisement
	for _, p := range slices.Concat(v.own, r.cfg.BGP.Services) {
		hop := v.carrier(p.Addr().Is4())
		if hop.Is4() && p.Addr().Is6() {
			continue // BGP has no such next hop
		}
		ads = append(ads, bgp.Advertisement{Prefix: p, NextHop: hop, Communities: r.cfg.BGP.communitiesOf(p)})
	}
	return r.speaker.Advertise(ads)
}

// peers are those that the node speaks to.
func (r *run) peers(nodes []fellow) []bgp.Peer {
	like := bgp.Peer{Port: r.cfg.BGP.Port, Password: r.cfg.BGP.Password, Multihop: meshHops}
	reflects := map[string]bool{}
	var speakers []bgp.Node
	for _, n := range nodes {
		if n.AS != 0 {
			speakers = append(speakers, n.speaks())
			reflects[n.Name] = n.Cluster.IsValid()
		}
	}
	var peers []bgp.Peer
	if r.cfg.BGP.Mesh != NoMesh {
		peers = bgp.Mesh(r.cfg.Node, speakers, like)
	}
	if r.cfg.BGP.Mesh == Reflectors {
		own := r.cfg.BGP.ClusterID.IsValid()
		peers = slices.DeleteFunc(peers, func(p bgp.Peer) bool { return !own && !reflects[p.Name] })
		for i, p := range peers {
			peers[i].ReflectorClient = own && !reflects[p.Name]
		}
	}
	mesh := len(peers)
	for _, p := range r.cfg.BGP.Peers {
		for _, p := range r.those(p, nodes) {
			own := p.Addr == r.self.Underlay.V4 || p.Addr == r.self.Underlay.V6 // all nodes may have been told of this one
			switch i := slices.IndexFunc(peers, func(o bgp.Peer) bool { return o.Addr == p.Addr }); {
			case own:
			case i < 0:
				peers = append(peers, p)
			case i < mesh: // the session stays the mesh's, and what passes is as the operator says
				peers[i].Import, peers[i].Export = p.Import, p.Export
			}
		}
	}
	return peers
}

// those are the speakers that are meant by a peer. Of nodes, one that is no reflector is the client of one that is.
func (r *run) those(p Peer, nodes []fellow) []bgp.Peer {
	if p.Nodes == nil {
		if p.FromNode && !p.Local.IsValid() {
			p.Local = view{self: r.self}.local(p.Addr.Is4())
		}
		return []bgp.Peer{p.Peer}
	}
	var chosen []bgp.Node
	clients := map[string]bool{}
	for _, n := range nodes {
		if n.AS != 0 && (n.Name == r.cfg.Node || p.Nodes.has(n.Node)) {
			chosen = append(chosen, n.speaks())
			clients[n.Name] = r.cfg.BGP.ClusterID.IsValid() && !n.Cluster.IsValid() && n.AS == r.cfg.BGP.AS
		}
	}
	like := p.Peer
	like.Port = cmp.Or(like.Port, r.cfg.BGP.Port)
	if like.TTLSecurity == 0 {
		like.Multihop = cmp.Or(like.Multihop, meshHops)
	}
	peers := bgp.Mesh(r.cfg.Node, chosen, like)
	for i, p := range peers {
		peers[i].ReflectorClient = clients[p.Name]
	}
	return peers
}

// meshHops is how many routers may be between two nodes of different AS.
const meshHops = 16

// fromBGP is what speakers have told.
func fromBGP(learned *bgp.Snapshot) []path {
	paths := make([]path, len(learned.Paths))
	for i, p := range learned.Paths {
		paths[i] = path{prefix: p.Prefix, nextHop: p.NextHop, peer: p.Peer, stale: p.Stale}
	}
	return paths
}
