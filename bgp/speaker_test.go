package bgp_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/bgp"
)

func TestTwoSpeakersLearnEachOthersBlocks(t *testing.T) {
	r := newRow(t, 2, nil)
	r.mesh(t)
	for i, s := range r {
		own, other := i+1, 2-i
		snap := waitFor(t, s, "both families", has(v4Block(other), v6Block(other)))
		want := []bgp.Path{
			{Prefix: v4Block(other), NextHop: hops(other).V4, Peer: at(other)},
			{Prefix: v6Block(other), NextHop: hops(other).V6, Peer: at(other)},
		}
		assert.Equal(t, want, snap.Paths, "of speaker %d", own)
	}
	require.Eventually(t, func() bool { return r[0].Status().Established() == 1 }, patience, 10*time.Millisecond)
	status := r[0].Status()
	require.NoError(t, status.Err)
	p := status.Peers[0]
	assert.Equal(t, "node2", p.Name)
	assert.Equal(t, uint32(64512), p.AS)
	assert.Equal(t, hops(2).V4, p.RouterID)
	assert.EqualValues(t, 2, p.Received)
	assert.EqualValues(t, 2, p.Accepted)
	assert.EqualValues(t, 2, p.Advertised)
	assert.WithinDuration(t, time.Now(), p.Since, patience)
	assert.NotZero(t, p.UpdatesIn)
}

func TestWithdrawnAndMovedPaths(t *testing.T) {
	r := newRow(t, 3, nil)
	r.mesh(t)
	waitFor(t, r[0], "all", has(v4Block(2), v4Block(3), v6Block(3)))
	require.NoError(t, r[1].Advertise(nil))
	waitFor(t, r[0], "the withdrawal", lacks(v4Block(2)))

	// The block comes back behind another node, then behind another address of it, with a community.
	require.NoError(t, r[2].Advertise(append(blocks(3), bgp.Advertisement{Prefix: v4Block(2)})))
	waitFor(t, r[0], "the new place", func(s *bgp.Snapshot) bool { p, _ := s.Path(v4Block(2)); return p.NextHop == hops(3).V4 })
	mark, err := bgp.ParseCommunity("64512:7")
	require.NoError(t, err)
	require.NoError(t, r[2].Advertise(append(blocks(3), bgp.Advertisement{Prefix: v4Block(2), NextHop: hops(33).V4, Communities: []bgp.Community{mark, bgp.NoExport, mark}})))
	snap := waitFor(t, r[0], "the new next hop", func(s *bgp.Snapshot) bool { p, _ := s.Path(v4Block(2)); return p.NextHop == hops(33).V4 })
	got, _ := snap.Path(v4Block(2))
	assert.Equal(t, bgp.Path{Prefix: v4Block(2), NextHop: hops(33).V4, Peer: at(3), Communities: []bgp.Community{mark, bgp.NoExport}}, got)

	// With IPv6 as its only way, an IPv4 block has an IPv6 next hop (RFC 8950).
	require.NoError(t, r[2].Advertise([]bgp.Advertisement{{Prefix: v4Block(3), NextHop: hops(3).V6}}))
	waitFor(t, r[0], "the other family", func(s *bgp.Snapshot) bool { p, _ := s.Path(v4Block(3)); return p.NextHop == hops(3).V6 })
}

// A peer that is left out is gone at once with its paths; one that is taken back works again.
func TestPeersComeAndGo(t *testing.T) {
	r := newRow(t, 3, nil)
	r.mesh(t)
	waitFor(t, r[0], "all", has(v4Block(2), v4Block(3)))
	require.NoError(t, r[0].SetPeers([]bgp.Peer{peer(1, 3)}))
	waitFor(t, r[0], "the end of node2's paths", lacks(v4Block(2)))
	waitFor(t, r[1], "the end of node1's paths", lacks(v4Block(1)))
	status := r[0].Status()
	require.Len(t, status.Peers, 1)
	assert.Equal(t, bgp.Established, status.Peers[0].State, "the other session is left alone")
	require.Eventually(t, func() bool { return r[1].Status().Peers[0].Reason != "" }, patience, 10*time.Millisecond)

	require.NoError(t, r[0].SetPeers([]bgp.Peer{peer(1, 2), peer(1, 3)}))
	waitFor(t, r[0], "node2's paths", has(v4Block(2)))
	waitFor(t, r[1], "node1's paths", has(v4Block(1)))
	require.Eventually(t, func() bool { return r[1].Status().Peers[0].State == bgp.Established }, patience, 10*time.Millisecond)
	assert.Empty(t, r[1].Status().Peers[0].Reason)
}

// Why there is no session is to be seen for as long as there is none, through all states that its end goes on to; and it is nothing for the
// log, nor is that a speaker ends.
func TestReasonStays(t *testing.T) {
	var log bytes.Buffer
	t.Run("session", func(t *testing.T) {
		r := newRow(t, 2, func(i int, cfg *bgp.Config) {
			if i == 2 {
				cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
			}
		})
		require.NoError(t, r[0].SetPeers([]bgp.Peer{external(1, 2, 64513)})) // which is in 64512, and so turned away
		require.NoError(t, r[1].SetPeers([]bgp.Peer{peer(2, 1)}))
		why := func() bgp.PeerStatus { return r[1].Status().Peers[0] }
		const refused = "the peer refuses the session"
		require.Eventually(t, func() bool { return why().Reason == refused && why().State == bgp.Idle }, patience, time.Millisecond)
		require.Eventually(t, func() bool { return why().State != bgp.Idle }, patience, time.Millisecond)
		for range 100 {
			assert.Equal(t, refused, why().Reason)
			time.Sleep(time.Millisecond)
		}
		assert.Equal(t, "the peer answers, and not as one of AS 64513", r[0].Status().Peers[0].Reason, "of who has turned it away")
	})
	assert.NotContains(t, log.String(), "level=ERROR")
	assert.NotContains(t, log.String(), "Closed an accepted connection")
}

func TestReflectorAndItsClients(t *testing.T) {
	r := newRow(t, 3, nil)
	client := func(i int) bgp.Peer { p := peer(1, i); p.ReflectorClient = true; return p }
	require.NoError(t, r[0].SetPeers([]bgp.Peer{client(2), client(3)}))
	for i := 2; i <= 3; i++ {
		require.NoError(t, r[i-1].SetPeers([]bgp.Peer{peer(i, 1)}))
		require.NoError(t, r[i-1].Advertise(blocks(i)))
	}
	snap := waitFor(t, r[1], "what the other client has", has(v4Block(3), v6Block(3)))
	got, _ := snap.Path(v6Block(3))
	assert.Equal(t, bgp.Path{Prefix: v6Block(3), NextHop: hops(3).V6, Peer: at(1)}, got, "the next hop is the client, not the reflector")
	waitFor(t, r[2], "what the other client has", has(v4Block(2), v6Block(2)))
}

// Two racks, each an AS of its own, have a session with the switch between them.
func TestTopOfRack(t *testing.T) {
	r := newRow(t, 3, func(i int, cfg *bgp.Config) { cfg.AS = []uint32{4200000000, 64513, 64514}[i-1] })
	passOn := func(p bgp.Peer) bgp.Peer { p.Transit = bgp.NextHopSelf; return p }
	require.NoError(t, r[0].SetPeers([]bgp.Peer{passOn(external(1, 2, 64513)), passOn(external(1, 3, 64514))}))
	for i := 2; i <= 3; i++ {
		require.NoError(t, r[i-1].SetPeers([]bgp.Peer{external(i, 1, 4200000000)}))
		require.NoError(t, r[i-1].Advertise(blocks(i)))
	}
	snap := waitFor(t, r[1], "the other rack", has(v4Block(3)))
	got, _ := snap.Path(v4Block(3))
	assert.Equal(t, []uint32{4200000000, 64514}, got.ASPath)
}

func external(own, i int, as uint32) bgp.Peer {
	p := peer(own, i)
	p.AS = as
	return p
}

// Of two nodes with a session, one has another with a switch. What it tells that of the other node is up to it.
func TestTransit(t *testing.T) {
	const as = 4200000000
	r := newRow(t, 3, func(i int, cfg *bgp.Config) {
		if i == 3 {
			cfg.AS = as
		}
	})
	require.NoError(t, r[1].SetPeers([]bgp.Peer{peer(2, 1)}))
	require.NoError(t, r[2].SetPeers([]bgp.Peer{external(3, 1, 64512)}))
	require.NoError(t, r[1].Advertise(blocks(2)))
	tell := func(node bgp.Peer, transit bgp.Transit) {
		t.Helper()
		tor := external(1, 3, as)
		tor.Transit = transit
		require.NoError(t, r[0].SetPeers([]bgp.Peer{node, tor}))
	}
	us := func(s *bgp.Snapshot) bool {
		v4, _ := s.Path(v4Block(2))
		v6, _ := s.Path(v6Block(2))
		return v4.NextHop == at(1) && v6.NextHop == hops(1).V6
	}
	tell(peer(1, 2), "")
	waitFor(t, r[0], "the other node's blocks", has(v4Block(2), v6Block(2)))
	require.NoError(t, r[0].Advertise(blocks(1))) // behind what would have been passed on
	snap := waitFor(t, r[2], "our own blocks", has(v4Block(1), v6Block(1)))
	assert.Len(t, snap.Paths, 2, "%+v", snap.Paths)

	tell(peer(1, 2), bgp.NextHopKept)
	snap = waitFor(t, r[2], "the other's too", has(v4Block(1), v6Block(1), v4Block(2), v6Block(2)))
	for _, i := range []int{1, 2} {
		for _, want := range []bgp.Path{{Prefix: v4Block(i), NextHop: hops(i).V4}, {Prefix: v6Block(i), NextHop: hops(i).V6}} {
			got, _ := snap.Path(want.Prefix)
			assert.Equal(t, want.NextHop, got.NextHop, "of %s", want.Prefix)
		}
	}
	tell(peer(1, 2), bgp.NextHopSelf)
	waitFor(t, r[2], "us as the next hop", us)
	tell(peer(1, 2), bgp.OwnOnly)
	waitFor(t, r[2], "the end of it", lacks(v4Block(2)))

	client := peer(1, 2)
	client.ReflectorClient = true
	tell(client, "")
	waitFor(t, r[2], "what a reflector's client has", us)
}

func TestPassword(t *testing.T) {
	r := newRow(t, 3, nil)
	secret := func(own, i int, password string) bgp.Peer {
		p := peer(own, i)
		p.Password = password
		return p
	}
	require.NoError(t, r[0].SetPeers([]bgp.Peer{secret(1, 2, "right"), secret(1, 3, "right")}))
	require.NoError(t, r[1].SetPeers([]bgp.Peer{secret(2, 1, "right")}))
	require.NoError(t, r[2].SetPeers([]bgp.Peer{secret(3, 1, "wrong")}))
	for i, s := range r {
		require.NoError(t, s.Advertise(blocks(i+1)))
	}
	waitFor(t, r[0], "the peer with the right password", has(v4Block(2)))
	time.Sleep(time.Second) // both had the same time to dial
	assert.True(t, lacks(v4Block(3))(waitFor(t, r[0], "any", has(v4Block(2)))))
	require.NoError(t, r[2].SetPeers([]bgp.Peer{secret(3, 1, "right")}))
	waitFor(t, r[0], "the peer that was corrected", has(v4Block(3)))
}

// TestTTLSecurity: both ends have to send with the highest TTL.
func TestTTLSecurity(t *testing.T) {
	r := newRow(t, 3, func(i int, cfg *bgp.Config) { cfg.AS = []uint32{64512, 64513, 64513}[i-1] })
	near := func(own, i int, as uint32, hops int) bgp.Peer {
		p := external(own, i, as)
		p.TTLSecurity = hops
		return p
	}
	require.NoError(t, r[0].SetPeers([]bgp.Peer{near(1, 2, 64513, 1), near(1, 3, 64513, 1)}))
	require.NoError(t, r[1].SetPeers([]bgp.Peer{near(2, 1, 64512, 0)}))
	require.NoError(t, r[2].SetPeers([]bgp.Peer{near(3, 1, 64512, 2)}))
	for i, s := range r {
		require.NoError(t, s.Advertise(blocks(i+1)))
	}
	waitFor(t, r[0], "the peer that does so too", has(v4Block(3)))
	time.Sleep(time.Second) // both had the same time to dial
	assert.True(t, lacks(v4Block(2))(waitFor(t, r[0], "any", has(v4Block(3)))))
}

// TestLocalAS: a speaker is in another AS for one of its peers.
func TestLocalAS(t *testing.T) {
	r := newRow(t, 3, func(i int, cfg *bgp.Config) { cfg.AS = []uint32{64512, 64513, 64512}[i-1] })
	as := func(p bgp.Peer, local uint32) bgp.Peer { p.LocalAS = local; return p }
	require.NoError(t, r[0].SetPeers([]bgp.Peer{as(external(1, 2, 64513), 64999), peer(1, 3)}))
	require.NoError(t, r[1].SetPeers([]bgp.Peer{external(2, 1, 64999)}))
	require.NoError(t, r[2].SetPeers([]bgp.Peer{peer(3, 1)}))
	for i, s := range r {
		require.NoError(t, s.Advertise(blocks(i+1)))
	}
	got, _ := waitFor(t, r[1], "its blocks", has(v4Block(1))).Path(v4Block(1))
	assert.Equal(t, []uint32{64999}, got.ASPath)
	got, _ = waitFor(t, r[2], "what it has learned there", has(v4Block(1), v4Block(2))).Path(v4Block(2))
	assert.Equal(t, []uint32{64513}, got.ASPath)
	// In the peer's own AS it is an internal peer.
	require.NoError(t, r[0].SetPeers([]bgp.Peer{as(peer(1, 2), 64513), peer(1, 3)}))
	require.NoError(t, r[1].SetPeers([]bgp.Peer{peer(2, 1)}))
	waitFor(t, r[1], "an internal path", func(s *bgp.Snapshot) bool { p, ok := s.Path(v4Block(1)); return ok && len(p.ASPath) == 0 })
}

func TestFilters(t *testing.T) {
	r := newRow(t, 2, nil)
	red, blue := bgp.Community(64512<<16|1), bgp.Community(64512<<16|11)
	inside := netip.MustParsePrefix("10.244.7.64/26")
	require.NoError(t, r[1].Advertise([]bgp.Advertisement{
		{Prefix: v4Block(2), Communities: []bgp.Community{red}},
		{Prefix: v4Block(3), Communities: []bgp.Community{blue}},
		{Prefix: inside}, {Prefix: v6Block(2)}, {Prefix: v6Block(3)},
	}))
	set := func(imports, exports bgp.Filter) {
		t.Helper()
		to, from := peer(1, 2), peer(2, 1)
		to.Import, from.Export = imports, exports
		require.NoError(t, r[0].SetPeers([]bgp.Peer{to}))
		require.NoError(t, r[1].SetPeers([]bgp.Peer{from}))
	}
	exactly := func(want ...netip.Prefix) {
		t.Helper()
		waitFor(t, r[0], fmt.Sprint(want), func(s *bgp.Snapshot) bool { return len(s.Paths) == len(want) && has(want...)(s) })
	}
	set(nil, nil)
	exactly(v4Block(2), v4Block(3), inside, v6Block(2), v6Block(3))
	since := r[0].Status().Peers[0].Since

	set(bgp.Filter{{Communities: []bgp.Community{red}, Reject: true}}, nil)
	exactly(v4Block(3), inside, v6Block(2), v6Block(3))
	set(bgp.Filter{{Within: []netip.Prefix{v4Block(7), v6Block(2)}}, {Reject: true}}, nil)
	exactly(inside, v6Block(2))
	net := func(text string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(text)} }
	all4 := net("10.244.0.0/16")
	set(bgp.Filter{{Within: all4, MinLength: 25, Reject: true}}, nil)
	exactly(v4Block(2), v4Block(3), v6Block(2), v6Block(3))
	set(bgp.Filter{{Within: all4, MaxLength: 24, Reject: true}}, nil)
	exactly(inside, v6Block(2), v6Block(3))
	set(bgp.Filter{{Within: []netip.Prefix{v4Block(2), v6Block(3)}, Outside: true, Reject: true}}, nil)
	exactly(v4Block(2), v6Block(3))
	set(nil, bgp.Filter{{Within: net("10.244.7.0/24"), MinLength: 26, MaxLength: 26, Outside: true, Reject: true}})
	exactly(inside, v6Block(2), v6Block(3))
	set(bgp.Filter{{Within: net("10.244.7.0/24"), MinLength: 24, MaxLength: 24, Reject: true}}, nil)
	exactly(v4Block(2), v4Block(3), inside, v6Block(2), v6Block(3))
	set(nil, bgp.Filter{{Within: []netip.Prefix{v6Block(3)}, Reject: true}, {Communities: []bgp.Community{blue}, Reject: true}})
	exactly(v4Block(2), inside, v6Block(2))
	set(bgp.Filter{{AddCommunities: []bgp.Community{blue}, LocalPref: 200}}, nil)
	exactly(v4Block(2), v4Block(3), inside, v6Block(2), v6Block(3))
	waitFor(t, r[0], "the mark", func(s *bgp.Snapshot) bool {
		p, _ := s.Path(v4Block(2))
		return slices.Equal(p.Communities, []bgp.Community{red, blue})
	})
	set(nil, nil)
	waitFor(t, r[0], "no mark", func(s *bgp.Snapshot) bool {
		p, _ := s.Path(v4Block(2))
		return slices.Equal(p.Communities, []bgp.Community{red})
	})
	assert.Equal(t, since, r[0].Status().Peers[0].Since, "the session outlives a change of filters")
}

// A speaker whose port is taken says so.
func TestPortTaken(t *testing.T) {
	newRow(t, 1, nil)
	s, err := bgp.New(bgp.Config{AS: 64512, NextHop: hops(2), Listen: []netip.Addr{at(1)}, Port: port})
	require.NoError(t, err)
	err = s.Run(t.Context())
	require.ErrorIs(t, err, unix.EADDRINUSE)
	require.ErrorIs(t, s.Run(t.Context()), bgp.ErrRunning)
}

// Nobody is there: the speaker runs, says so, and yields a snapshot all the same.
func TestDeadPeersHoldNobodyUp(t *testing.T) {
	r := newRow(t, 2, nil)
	require.NoError(t, r[0].SetPeers([]bgp.Peer{peer(1, 9), peer(1, 2)}))
	require.NoError(t, r[1].SetPeers([]bgp.Peer{peer(2, 1)}))
	require.NoError(t, r[1].Advertise(blocks(2)))
	waitFor(t, r[0], "anything", func(*bgp.Snapshot) bool { return true })
	waitFor(t, r[0], "the living peer", has(v4Block(2)))
	status := r[0].Status()
	assert.Equal(t, 1, status.Established())
	assert.True(t, status.Running)
	assert.Equal(t, []string{"node2", "node9"}, []string{status.Peers[0].Name, status.Peers[1].Name})
	assert.NotEqual(t, bgp.Established, status.Peers[1].State)
}
