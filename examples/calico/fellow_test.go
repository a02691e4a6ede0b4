package calico

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"

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
