package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
)

// latecomers are the passive peers that have been waited for since this process restarted, and until when: then we dial.
//
// FRR keeps the routes of a peer that restarts and dials it once, a second after the session broke; from then on it waits to be
// dialled (bgp_timer_set in bgpd/bgp_fsm.c starts no connect timer with PEER_STATUS_NSF_WAIT). BIRD dials after five seconds and
// then after two minutes. If we were not listening by then, or did not know our peers yet, both ends would wait until the
// restart time is over, and the peer would drop our routes.
type latecomers map[netip.Addr]time.Time

// lateness is how long a passive peer may take. Another Speaker, which goes on dialing, needs seven seconds: its engine rests for
// five after a session broke, and dials two later. If both dialled it might be at the same moment; see Peer.Passive.
const lateness = 10 * time.Second

// expect waits for a peer that has just been added, if it may be one that keeps our routes.
func (e *engine) expect(p Peer) {
	if e.restarting && p.Passive && time.Since(e.began) < e.cfg.RestartTime {
		e.late[p.Addr] = time.Now().Add(lateness)
	}
}

// dialLate dials those that are late, and returns when there will be more of them.
func (e *engine) dialLate(ctx context.Context) (next time.Duration, err error) {
	next = neverAgain
	var errs []error
	for _, p := range e.peers {
		until, waiting := e.late[p.Addr]
		if !waiting {
			continue
		}
		if left := time.Until(until); left > 0 {
			next = min(next, left)
			continue
		}
		switch e.state(ctx, p) {
		case Established:
			delete(e.late, p.Addr)
		case OpenSent, OpenConfirm: // it is dialing
			next = min(next, time.Second)
		default:
			n := e.neighbor(p)
			n.Transport.PassiveMode = false
			e.cfg.Logger.Info("dialing a passive peer that has not come back", "peer", p)
			// The engine forgets the peer and begins anew with it: it has no paths from it yet.
			if _, err := e.server.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: n}); err != nil {
				errs = append(errs, fmt.Errorf("dial passive peer %s: %w", p, err))
				continue
			}
			delete(e.late, p.Addr)
		}
	}
	return next, errors.Join(errs...)
}

// state is that of the session with the peer. It does not count what the peer is told, which takes the engine a walk through all paths.
func (e *engine) state(ctx context.Context, p Peer) State {
	state := Idle // also when the engine has stopped
	_ = e.server.ListPeer(ctx, &api.ListPeerRequest{Address: p.Addr.String()}, func(n *api.Peer) {
		state = stateOf(n.GetState().GetSessionState())
	})
	return state
}
