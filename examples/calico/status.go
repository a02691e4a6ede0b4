package calico

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/subnet"
)

// Status is how an [Agent] is doing: plain data, for people, for metrics and as JSON.
type Status struct {
	Node     string       `json:"node"`
	Device   string       `json:"device,omitempty"`
	Underlay subnet.Addrs `json:"underlay,omitzero"`
	MTU      int          `json:"mtu,omitempty"` // of pods, in bytes
	Ready    bool         `json:"ready"`
	// Problem is what keeps the agent from following what happens elsewhere, or from collecting what dead nodes had; what is in force
	// stays so.
	Problem string `json:"problem,omitempty"`
	// Problems are what others have told and was left out, pods that nobody has told of where there are policies, and what of the node's
	// own files cannot be read.
	Problems []string `json:"problems,omitempty"`
	// Leftovers are what Calico, or flannel, has left on the node.
	Leftovers []string `json:"leftovers,omitempty"`

	Routes []Route      `json:"routes,omitempty"` // to other nodes' blocks, by their prefixes
	Blocks []Block      `json:"blocks,omitempty"` // this node's
	BGP    *BGPStatus   `json:"bgp,omitempty"`    // nil where no BGP is spoken
	Parts  []PartStatus `json:"parts,omitempty"`
}

// Block is one of the node's shares of a pool.
type Block struct {
	Prefix netip.Prefix `json:"prefix"`
	Pool   string       `json:"pool,omitempty"`
	Used   int          `json:"used"` // addresses that somebody holds
}

// BGPStatus is how the node's speaker is doing.
type BGPStatus struct {
	AS          uint32       `json:"as"`
	RouterID    netip.Addr   `json:"routerID"`
	Established int          `json:"established"` // sessions
	Problem     string       `json:"problem,omitempty"`
	Peers       []PeerStatus `json:"peers,omitempty"`
}

// PeerStatus is one session.
type PeerStatus struct {
	Name     string     `json:"name,omitempty"`
	Addr     netip.Addr `json:"addr"`
	AS       uint32     `json:"as"`
	State    bgp.State  `json:"state"`
	Since    time.Time  `json:"since,omitzero"`
	Reason   string     `json:"reason,omitempty"` // why it is down
	Received uint64     `json:"received"`         // paths
	Sent     uint64     `json:"sent"`
}

// PartStatus is how one of the agent's drivers is doing.
type PartStatus struct {
	Name    string        `json:"name"`
	Passes  uint64        `json:"passes"`
	Drift   uint64        `json:"drift"` // objects that somebody else changed and that were put right
	Took    time.Duration `json:"tookNanoseconds"`
	Failing []string      `json:"failing,omitempty"`
}

// Status returns how the agent is doing.
func (a *Agent) Status(ctx context.Context) Status {
	a.mu.Lock()
	s, r := a.status, a.run
	a.mu.Unlock()
	s.Node = a.cfg.Node
	s.Routes, s.Problems, s.Leftovers = slices.Clone(s.Routes), slices.Clone(s.Problems), slices.Clone(s.Leftovers)
	if r == nil {
		return s
	}
	blocks, err := r.blocks(ctx)
	if s.Blocks = blocks; err != nil {
		s.Problems = append(s.Problems, "which addresses are held is not known: "+oneLine(err))
	}
	if err := r.collector.Status().Err; err != nil && s.Problem == "" {
		s.Problem = oneLine(err)
	}
	if r.policing != nil {
		untold, err := r.policing.untold()
		if err != nil {
			untold = append(untold, "which pods are closed is not known: "+oneLine(err))
		}
		s.Problems = slices.Concat(s.Problems, r.policing.problems(), untold)
	}
	if r.speaker != nil {
		s.BGP = describe(r.speaker.Status())
	}
	for _, k := range r.parts.all {
		st := k.status()
		p := PartStatus{Name: k.name(), Passes: st.Passes, Drift: st.Drift, Took: st.Last.Duration}
		for _, f := range st.Failing {
			p.Failing = append(p.Failing, oneLine(f.Err))
		}
		if err := st.Last.Err; err != nil && len(p.Failing) == 0 {
			p.Failing = []string{oneLine(err)}
		}
		s.Parts = append(s.Parts, p)
	}
	return s
}

// Failing counts the objects that are not in force.
func (s Status) Failing() (n int) {
	for _, p := range s.Parts {
		n += len(p.Failing)
	}
	return n
}

func describe(s bgp.Status) *BGPStatus {
	b := &BGPStatus{AS: s.AS, RouterID: s.RouterID, Established: s.Established()}
	if s.Err != nil {
		b.Problem = oneLine(s.Err)
	}
	for _, p := range s.Peers {
		b.Peers = append(b.Peers, PeerStatus{
			Name: p.Name, Addr: p.Addr, AS: p.AS, State: p.State, Since: p.Since, Reason: p.Reason, Received: p.Received, Sent: p.Advertised,
		})
	}
	return b
}

// oneLine makes a sentence of errors that were joined.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
