package calico

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"

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

// TestPeers: of a peer that is a node of the mesh the session is the mesh's, and the filters are the operator's.
func TestPeers(t *testing.T) {
	reject := bgp.Filter{{Reject: true}}
	var cfg Config
	cfg.Node, cfg.BGP.Password = "self", "of the mesh"
	cfg.BGP.Peers = []bgp.Peer{
		{Addr: addr("192.0.2.1"), Import: reject}, {Addr: addr("192.0.2.2"), AS: 64600, Import: reject, Export: bgp.Filter{{LocalPref: 7}}},
		{Addr: addr("192.0.2.254"), AS: 64600},
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
		cfg.BGP.Peers[2],
	}, r.peers(nodes))
}
