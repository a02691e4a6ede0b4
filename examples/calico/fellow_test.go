package calico

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/roster"
	"github.com/podweft/podweft/subnet"
)

// TestRenamed: a machine with another name than before is one node, and costs nobody else his sessions.
func TestRenamed(t *testing.T) {
	at := func(name, v4 string, alive bool, revision uint64) roster.Node {
		return roster.Node{Name: name, Underlay: subnet.Addrs{V4: addr(v4)}, Alive: alive, Revision: revision}
	}
	self := subnet.Node{Name: "self", Underlay: subnet.Addrs{V4: addr("192.0.2.1")}}
	broken := at("broken", "192.0.2.9", true, 9)
	broken.Data.V4 = json.RawMessage(`[]`)
	got, problems := fellowsOf(roster.Nodes{
		at("a-new", "192.0.2.2", true, 3), at("a-old", "192.0.2.2", false, 7), broken, at("fine", "192.0.2.4", false, 4),
		{Name: "mad", Problem: assert.AnError}, at("self", "192.0.2.1", true, 5), at("self-before", "192.0.2.1", true, 8),
		at("twice", "192.0.2.5", true, 1), at("twice-later", "192.0.2.5", true, 2),
	}, self)
	var names []string
	for _, f := range got {
		names = append(names, f.Name)
	}
	assert.Equal(t, []string{"a-new", "broken", "fine", "self", "twice-later"}, names)
	assert.Len(t, problems, 5)
	assert.Contains(t, problems, "node a-old: its address 192.0.2.2 is that of a-new")
	assert.Contains(t, problems, "node self-before: its address 192.0.2.1 is that of self")
}

// TestNamesakes: another machine with the node's name is noticed, and what the node told itself, before it moved or was started anew, is not.
func TestNamesakes(t *testing.T) {
	at := func(v4 string) subnet.Addrs { return subnet.Addrs{V4: addr(v4)} }
	now := time.Now()
	var n namesakes
	for _, step := range []struct {
		name, self, stored string
		after              time.Duration
		want               string
	}{
		{"of before the start", "192.0.2.2", "192.0.2.1", 0, ""},
		{"its own", "192.0.2.2", "192.0.2.2", 0, ""},
		{"it has moved and has not said so yet", "192.0.2.3", "192.0.2.2", 0, ""},
		{"now it has", "192.0.2.3", "192.0.2.3", 0, ""},
		{"another", "192.0.2.3", "192.0.2.9", 0, "192.0.2.9"},
		{"both by turns", "192.0.2.3", "192.0.2.3", roster.DefaultTTL / 2, "192.0.2.9"},
		{"still", "192.0.2.3", "192.0.2.9", roster.DefaultTTL / 2, "192.0.2.9"},
		{"it was ended", "192.0.2.3", "192.0.2.3", roster.DefaultTTL + 1, ""},
	} {
		now = now.Add(step.after)
		var want netip.Addr
		if step.want != "" {
			want = addr(step.want)
		}
		nodes := roster.Nodes{{Name: "self", Underlay: at(step.stored)}}
		assert.Equal(t, want, n.see(nodes, subnet.Node{Name: "self", Underlay: at(step.self)}, now), step.name)
	}
}

// TestPeers: of a peer that is a node of the mesh the session is the mesh's, and the filters are the operator's.
func TestPeers(t *testing.T) {
	reject := bgp.Filter{{Reject: true}}
	var cfg Config
	cfg.Node, cfg.BGP.Password = "self", "of the mesh"
	cfg.BGP.Peers = []Peer{
		{Peer: bgp.Peer{Addr: addr("192.0.2.1"), Import: reject}},
		{Peer: bgp.Peer{Addr: addr("192.0.2.2"), AS: 64600, Import: reject, Export: bgp.Filter{{LocalPref: 7}}}},
		{Peer: bgp.Peer{Addr: addr("192.0.2.254"), AS: 64600}},
		{Peer: bgp.Peer{Addr: addr("192.0.2.253"), AS: 64600}, FromNode: true},
		{Peer: bgp.Peer{Addr: addr("2001:db8::253"), AS: 64600}, FromNode: true},
	}
	r := &run{Agent: &Agent{cfg: cfg}, self: subnet.Node{Name: "self", Underlay: subnet.Addrs{V4: addr("192.0.2.1")}}}
	var nodes []fellow
	for name, v4 := range map[string]string{"self": "192.0.2.1", "near": "192.0.2.2"} {
		nodes = append(nodes, fellow{Node: roster.Node{Name: name, AS: 64512, Underlay: subnet.Addrs{V4: addr(v4)}}})
	}
	assert.Equal(t, []bgp.Peer{
		{
			Name: "near", AS: 64512, Addr: addr("192.0.2.2"), Local: addr("192.0.2.1"), Password: "of the mesh", Multihop: meshHops,
			Import: reject, Export: bgp.Filter{{LocalPref: 7}},
		},
		{Addr: addr("192.0.2.254"), AS: 64600},
		{Addr: addr("192.0.2.253"), AS: 64600, Local: addr("192.0.2.1")},
		{Addr: addr("2001:db8::253"), AS: 64600},
	}, r.peers(nodes))
}

// TestPeersThatAreNodes: Calico's own example of a route reflector, and a pair of nodes. Each end has the other as its peer.
func TestPeersThatAreNodes(t *testing.T) {
	objects := filepath.Join(t.TempDir(), "calico.yaml")
	require.NoError(t, os.WriteFile(objects, []byte(`
{kind: BGPConfiguration, metadata: {name: default}, spec: {nodeToNodeMeshEnabled: false, nodeMeshPassword: unused, logSeverityScreen: Info}}
---
{kind: BGPPeer, metadata: {name: reflected}, spec: {nodeSelector: all(), peerSelector: route-reflector == 'true', password: woven}}
---
{kind: BGPPeer, metadata: {name: pair}, spec: {node: a, peerSelector: "name == 'b'", ttlSecurity: 1}}
---
{kind: BGPPeer, metadata: {name: one way}, spec: {node: a, peerSelector: "name == 'c'", reversePeering: Manual}}
`), 0o600))
	var nodes []fellow
	for i, name := range []string{"a", "b", "c", "r"} {
		n := roster.Node{Name: name, AS: 64512, Underlay: subnet.Addrs{V4: addr(fmt.Sprint("192.0.2.", i+1))}, Labels: map[string]string{"name": name}}
		if name == "r" {
			n.Cluster, n.Labels["route-reflector"] = addr("10.0.0.1"), "true"
		}
		nodes = append(nodes, fellow{Node: n})
	}
	nodes = append(nodes, fellow{Node: roster.Node{Name: "mute", Underlay: subnet.Addrs{V4: addr("192.0.2.9")}}})
	got := map[string][]string{}
	for _, n := range nodes[:4] {
		args := []string{"--node-name=" + n.Name, "--ipv4-pool-cidr=10.244.0.0/16", "--store-dir=" + t.TempDir(), "--config=" + objects}
		labels := "--node-labels=name=" + n.Name
		if n.Cluster.IsValid() {
			labels += ",route-reflector=true"
			args = append(args, "--cluster-id="+n.Cluster.String())
		}
		args = append(args, labels)
		o, _, err := ParseOptions(args, func(string) string { return "" }, io.Discard)
		require.NoError(t, err)
		require.NoError(t, o.Config.Validate())
		assert.Equal(t, "unused", o.Config.BGP.Password)
		r := &run{Agent: &Agent{cfg: o.Config.withDefaults()}, self: subnet.Node{Name: n.Name, Underlay: n.Underlay}}
		for _, p := range r.peers(nodes) {
			assert.Equal(t, n.Underlay.V4, p.Local)
			got[n.Name] = append(got[n.Name], fmt.Sprintf("%s %q %v %d", p.Name, p.Password, p.ReflectorClient, p.TTLSecurity))
		}
		speaker, err := bgp.New(r.speakerConfig(r.self))
		require.NoError(t, err)
		require.NoError(t, speaker.SetPeers(r.peers(nodes)))
	}
	assert.Equal(t, map[string][]string{
		"a": {`r "woven" false 0`, `b "" false 1`, `c "" false 0`},
		"b": {`r "woven" false 0`, `a "" false 1`},
		"c": {`r "woven" false 0`},
		"r": {`a "woven" true 0`, `b "woven" true 0`, `c "woven" true 0`},
	}, got)
}
