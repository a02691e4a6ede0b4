package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/api"
)

// State is how far a session has come (RFC 4271, 8.2.2).
type State string

// The states of a session.
const (
	Idle        State = "idle"
	Connect     State = "connect"
	Active      State = "active"
	OpenSent    State = "opensent"
	OpenConfirm State = "openconfirm"
	Established State = "established"
)

// Status is how a [Speaker] is doing: plain data, for people and for metrics.
type Status struct {
	AS         uint32
	RouterID   netip.Addr
	Running    bool
	Revision   uint64       // of the last snapshot; zero before the first
	Paths      int          // in it
	Stale      int          // of those, not confirmed since a restart
	Advertised int          // prefixes of our own
	Peers      []PeerStatus // in the order of their addresses
	Err        error        // what is wanted and cannot be put in force; nil when all is
}

// Established counts the sessions that are up.
func (s Status) Established() int {
	n := 0
	for _, p := range s.Peers {
		if p.State == Established {
			n++
		}
	}
	return n
}

// PeerStatus is one session.
type PeerStatus struct {
	Name     string
	Addr     netip.Addr
	AS       uint32
	State    State
	Since    time.Time  // when it was established; zero while it is not
	RouterID netip.Addr // the peer's; zero until it has said
	Reason   string     // why the session went down last, while it is down
	BFD      string     // "up", "down", "init", "admin-down"; empty where BFD is off

	Received   uint64 // paths that the peer offers
	Accepted   uint64 // of those, passed by Import
	Advertised uint64 // paths that we offer the peer

	Flaps            uint32 // how often the session was lost soon after it was up
	MessagesIn       uint64
	MessagesOut      uint64
	UpdatesIn        uint64
	UpdatesOut       uint64
	NotificationsIn  uint64
	NotificationsOut uint64
	BFDFailures      uint64
}

// Status returns how the Speaker is doing.
func (s *Speaker) Status() Status {
	s.mu.Lock()
	status := Status{AS: s.cfg.AS, RouterID: s.cfg.RouterID, Running: s.engine != nil, Advertised: len(s.ads), Err: s.err}
	if s.snapshot != nil {
		status.Revision, status.Paths = s.snapshot.Revision, len(s.snapshot.Paths)
		for _, p := range s.snapshot.Paths {
			if p.Stale {
				status.Stale++
			}
		}
	}
	e, peers := s.engine, s.peers
	for _, p := range peers {
		status.Peers = append(status.Peers, PeerStatus{Name: p.Name, Addr: p.Addr, AS: p.AS, State: Idle, Reason: s.why[p.Addr]})
	}
	s.mu.Unlock()
	if e != nil {
		e.describe(status.Peers)
	}
	return status
}

// describe fills in what the engine knows of its peers.
func (e *engine) describe(peers []PeerStatus) {
	at := make(map[netip.Addr]*PeerStatus, len(peers))
	for i := range peers {
		at[peers[i].Addr] = &peers[i]
	}
	// The error is that the engine has stopped: the peers are idle.
	_ = e.server.ListPeer(context.Background(), &api.ListPeerRequest{EnableAdvertised: true}, func(n *api.Peer) {
		addr, _ := netip.ParseAddr(n.GetConf().GetNeighborAddress())
		if p := at[addr]; p != nil {
			p.describe(n)
		}
	})
}

func (p *PeerStatus) describe(n *api.Peer) {
	st := n.GetState()
	p.State = stateOf(st.GetSessionState())
	if p.State == Established {
		p.Reason = ""
		p.Since = n.GetTimers().GetState().GetUptime().AsTime()
	}
	if id, err := netip.ParseAddr(st.GetRouterId()); err == nil && !id.IsUnspecified() {
		p.RouterID = id
	}
	for _, f := range n.GetAfiSafis() {
		p.Received += f.GetState().GetReceived()
		p.Accepted += f.GetState().GetAccepted()
		p.Advertised += f.GetState().GetAdvertised()
	}
	p.Flaps = st.GetFlops()
	in, out := st.GetMessages().GetReceived(), st.GetMessages().GetSent()
	p.MessagesIn, p.UpdatesIn, p.NotificationsIn = in.GetTotal(), in.GetUpdate(), in.GetNotification()
	p.MessagesOut, p.UpdatesOut, p.NotificationsOut = out.GetTotal(), out.GetUpdate(), out.GetNotification()
	if p.State != Established {
		p.Reason = p.reason()
	}
	if b := st.GetBfdState(); b != nil && n.GetBfd().GetEnabled() {
		p.BFD = word(b.GetSessionState().String(), "BFD_SESSION_STATE_")
		p.BFDFailures = b.GetFailureTransitions()
	}
}

// reason is why there is no session, where the engine's own words say little. Of a peer that it has dialled the engine says nothing before both
// have opened the session, and counts what was sent instead (outgoingConnManager in pkg/server/fsm.go). Of one that has dialled us it calls any
// answer but the expected an invalid message, also the one that turns us away.
func (p *PeerStatus) reason() string {
	notAsExpected := fmt.Sprintf("the peer answers, and not as one of AS %d", p.AS)
	switch {
	case p.Reason == "bad-peer-as":
		return notAsExpected
	case p.Reason != "" && p.Reason != "invalid-msg":
		return p.Reason
	case p.NotificationsIn > 0:
		return "the peer refuses the session"
	case p.Reason == "" && p.NotificationsOut > 0:
		return notAsExpected
	}
	return p.Reason
}

func stateOf(s api.PeerState_SessionState) State {
	if s == api.PeerState_SESSION_STATE_UNSPECIFIED {
		return Idle
	}
	return State(word(s.String(), "SESSION_STATE_"))
}

// word is the engine's name of a value as we write it: "BFD_SESSION_STATE_ADMIN_DOWN" is "admin-down".
func word(name, prefix string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, prefix), "_", "-"))
}
