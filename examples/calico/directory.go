package calico

import (
	"context"
	"crypto/sha256"
	"net/netip"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/subnet"
)

// Node is what a node tells the others of itself.
type Node struct {
	Name     string            `json:"name"`
	Underlay subnet.Addrs      `json:"underlay"`           // where its packets are sent, and where it speaks BGP
	AS       uint32            `json:"as,omitempty"`       // zero: it does not speak BGP
	Cluster  netip.Addr        `json:"clusterID,omitzero"` // of a route reflector
	VTEP4    podweft.MAC       `json:"vtep4,omitzero"`     // of its VXLAN link over IPv4
	VTEP6    podweft.MAC       `json:"vtep6,omitzero"`     // and over IPv6
	Labels   map[string]string `json:"labels,omitempty"`
}

// vtep is the MAC of the node's VXLAN link that has an underlay address of a's family.
func (n Node) vtep(a netip.Addr) podweft.MAC {
	if a.Is4() {
		return n.VTEP4
	}
	return n.VTEP6
}

// speaks is the node as one of a BGP mesh.
func (n Node) speaks() bgp.Node { return bgp.Node{Name: n.Name, AS: n.AS, Addrs: n.Underlay} }

// Directory is where nodes tell each other of themselves. It is safe for concurrent use.
type Directory interface {
	// Put tells of this node, in place of what it told before.
	Put(ctx context.Context, n Node) error
	// Remove takes a node out. One that is not there is no error.
	Remove(ctx context.Context, name string) error
	// Nodes returns all, by their names. What cannot be read as a node is left out and is among the problems.
	Nodes(ctx context.Context) (all []Node, problems []error, err error)
	// Watch calls changed once when it has begun to listen, and then whenever there may be another answer, until ctx ends.
	Watch(ctx context.Context, changed func()) error
}

// vtepMAC is the MAC of a node's VXLAN link: always the same, so that a node that starts anew is where its peers look for it.
func vtepMAC(node string, v4 bool) podweft.MAC {
	family := "6"
	if v4 {
		family = "4"
	}
	sum := sha256.Sum256([]byte("podweft-calico vtep" + family + " " + node))
	var m podweft.MAC
	copy(m[:], sum[:])
	m[0] = m[0]&^0x01 | 0x02 // one station's, locally administered
	return m
}
