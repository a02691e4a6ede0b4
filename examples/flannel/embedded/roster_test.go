package embedded_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/examples/flannel/embedded"
	"github.com/podweft/podweft/examples/internal/loopback"
	"github.com/podweft/podweft/roster"
	"github.com/podweft/podweft/roster/etcd"
	"github.com/podweft/podweft/roster/rostertest"
)

func rosterStore(t testing.TB, url, prefix string) *etcd.Store {
	t.Helper()
	s, err := etcd.New(etcd.Config{Endpoints: []string{url}, Prefix: prefix})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestRosterStore(t *testing.T) {
	for _, server := range servers {
		t.Run(server.name, func(t *testing.T) {
			t.Parallel() // the tests wait for deaths
			url := server.start(t)
			operator(t, url) // waits for it
			var mu sync.Mutex
			prefixes := map[roster.Store]string{}
			rostertest.Run(t, rostertest.Config{
				New: func(t *testing.T) roster.Store {
					s := rosterStore(t, url, prefix(t))
					mu.Lock()
					defer mu.Unlock()
					prefixes[s] = prefix(t)
					return s
				},
				Another:  func(t *testing.T, s roster.Store) roster.Store { return rosterStore(t, url, prefixes[s]) },
				TTL:      2 * time.Second, // etcd keeps no shorter ones
				Patience: 30 * time.Second,
			})
		})
	}
}

// TestRosterOutage: etcd is away for longer than nodes live without being heard of. All are known when it is back, and those whose
// agents run are alive.
func TestRosterOutage(t *testing.T) {
	cfg := embedded.Config{Dir: t.TempDir(), Client: loopback.FreeURL(t)}
	server := startMember(t, cfg)
	operator(t, cfg.Client)
	s := rosterStore(t, cfg.Client, "/outage")
	m, err := roster.NewMember(roster.MemberConfig{Store: s, Node: roster.Node{Name: "runs", AS: 7}, TTL: 2 * time.Second})
	require.NoError(t, err)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	wg.Go(func() { assert.NoError(t, m.Run(ctx)) })
	require.NoError(t, s.Join(t.Context(), roster.Node{Name: "rests"}, 2*time.Second))
	is := func(nodes roster.Nodes, name string, alive bool) bool {
		n, ok := nodes.Node(name)
		return ok && n.Alive == alive
	}
	var seen []string // what the agent of a third node sees
	step := 0
	for nodes, err := range roster.Follow(ctx, s) {
		if err != nil {
			seen = append(seen, err.Error())
			continue
		}
		seen = append(seen, fmt.Sprintf("%+v", nodes))
		switch {
		case step == 0 && is(nodes, "runs", true) && is(nodes, "rests", true):
			server.kill()
			time.Sleep(3 * time.Second) // for longer than a TTL
			server = startMember(t, cfg)
			step++
		case step == 0 && is(nodes, "rests", false): // it was a while until the watch began
			require.NoError(t, s.Join(t.Context(), roster.Node{Name: "rests"}, 2*time.Second))
		case step == 1 && is(nodes, "runs", true) && is(nodes, "rests", false):
			step++
		}
		if step == 2 {
			break
		}
	}
	require.Equal(t, 2, step, "%q", seen)
}

// TestRosterByHand: what people and strangers do to the keys.
func TestRosterByHand(t *testing.T) {
	url := startEmbedded(t)
	op := operator(t, url)
	s := rosterStore(t, url, "/hand")
	require.NoError(t, s.Join(t.Context(), roster.Node{Name: "a"}, time.Minute))
	put(t, op, "/hand/nodes/hello", "world")
	put(t, op, "/hand/nodes/alive/nobody", "")
	put(t, op, "/hand/nodes/known/b", "{")
	put(t, op, "/hand/nodes/known/c", `{"name":"a"}`)
	nodes, err := s.Nodes(t.Context())
	require.NoError(t, err)
	require.Len(t, nodes, 3)
	require.NoError(t, nodes[0].Problem)
	require.ErrorContains(t, nodes[1].Problem, "/hand/nodes/known/b: ")
	require.ErrorContains(t, nodes[2].Problem, `/hand/nodes/known/c: name: a is not the key's`)
	require.NoError(t, s.Join(t.Context(), roster.Node{Name: "b"}, time.Minute))
	nodes, err = s.Nodes(t.Context())
	require.NoError(t, err)
	assert.NoError(t, nodes[1].Problem, "the node itself has mended it")
	assert.True(t, nodes[1].Alive)
}
