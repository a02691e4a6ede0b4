package calico

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/roster"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/vxlan"
)

// fellow is another node, as far as routes and sessions follow from it.
type fellow struct {
	roster.Node
	vteps map[bool]podweft.MAC // of its VXLAN links, by whether they are over IPv4
}

// vtep is the MAC of the node's VXLAN link that has an underlay address of a's family; zero if nobody has told of one.
func (f fellow) vtep(a netip.Addr) podweft.MAC { return f.vteps[a.Is4()] }

// speaks is the node as one of a BGP mesh.
func (f fellow) speaks() bgp.Node { return bgp.Node{Name: f.Name, AS: f.AS, Addrs: f.Underlay} }

// fellowsOf reads what nodes tell of themselves to self. What makes no sense is left out and is among the problems.
func fellowsOf(nodes roster.Nodes, self subnet.Node) (all []fellow, problems []string) {
	for _, n := range nodes {
		if n.Problem != nil {
			problems = append(problems, fmt.Sprintf("node %s: %s", n.Name, oneLine(n.Problem)))
			continue
		}
		f := fellow{n, map[bool]podweft.MAC{}}
		for v4, raw := range map[bool]json.RawMessage{true: n.Data.V4, false: n.Data.V6} {
			var data vxlan.LeaseData
			if len(raw) == 0 {
				continue
			}
			if err := json.Unmarshal(raw, &data); err != nil {
				problems = append(problems, fmt.Sprintf("node %s: VTEP: %s", n.Name, oneLine(err)))
			} else {
				f.vteps[v4] = data.VtepMAC
			}
		}
		all = append(all, f)
	}
	all, double := distinct(all, self)
	return all, append(problems, double...)
}

// distinct leaves each address to one node: a machine that was given another name is known by the old one too until that is forgotten,
// and nobody could have a session with both. It is self's, or that of the node that lives, or that said so last.
func distinct(nodes []fellow, self subnet.Node) (rest []fellow, problems []string) {
	owner := map[netip.Addr]fellow{}
	for a := range self.Underlay.All() {
		owner[a] = fellow{Node: roster.Node{Name: self.Name}}
	}
	for _, n := range nodes {
		for a := range n.Underlay.All() {
			o, taken := owner[a]
			if !taken || o.Name != self.Name && (n.Alive && !o.Alive || n.Alive == o.Alive && n.Revision > o.Revision) {
				owner[a] = n
			}
		}
	}
	for _, n := range nodes {
		other := ""
		for a := range n.Underlay.All() {
			if o := owner[a].Name; o != n.Name {
				other = fmt.Sprintf("node %s: its address %s is that of %s", n.Name, a, o)
			}
		}
		if other == "" || n.Name == self.Name {
			rest = append(rest, n)
		} else {
			problems = append(problems, other)
		}
	}
	return rest, problems
}

// namesakes notices another machine that tells of itself by this node's name: each takes the other's blocks for its own, and their pods have
// the same addresses.
type namesakes struct {
	had   map[netip.Addr]bool // underlay addresses of this node's since it began
	heard bool                // the store has what this node told: what comes after it is not of before
	other netip.Addr          // of a machine with the name
	since time.Time           // it was seen last then
	said  string              // to the log
}

// see looks at what the store has of self, and returns the address of another machine that has told so lately. While both tell, it changes.
func (n *namesakes) see(nodes roster.Nodes, self subnet.Node, now time.Time) netip.Addr {
	if n.had == nil {
		n.had = map[netip.Addr]bool{}
	}
	for a := range self.Underlay.All() {
		n.had[a] = true
	}
	if own, known := nodes.Node(self.Name); known && own.Problem == nil {
		foreign := netip.Addr{}
		for a := range own.Underlay.All() {
			if !n.had[a] {
				foreign = a
			}
		}
		if !foreign.IsValid() {
			n.heard = true
		} else if n.heard {
			n.other, n.since = foreign, now
		}
	}
	if now.Sub(n.since) > roster.DefaultTTL {
		n.other, n.said = netip.Addr{}, ""
	}
	return n.other
}

func namesake(at netip.Addr) string {
	return fmt.Sprintf("another machine, at %s, goes by this node's name: end one of the two agents and give it a name of its own", at)
}

// self is what this node tells of itself: to be reached over VXLAN too, in the form that flannel's nodes have for that.
func (c Config) self(underlay subnet.Addrs) (n roster.Node, err error) {
	n = roster.Node{Name: c.Node, Underlay: underlay, Backend: vxlan.Type, Labels: c.Labels}
	if c.Routes == ByBGP {
		n.AS, n.Cluster = c.BGP.AS, c.BGP.ClusterID
	}
	for v4, raw := range map[bool]*json.RawMessage{true: &n.Data.V4, false: &n.Data.V6} {
		if *raw, err = json.Marshal(vxlan.LeaseData{VNI: c.VNI, VtepMAC: vtepMAC(c.Node, v4)}); err != nil {
			return n, err
		}
	}
	return n, nil
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
