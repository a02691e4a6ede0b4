package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/podweft/podweft/subnet"
)

// nodesServer is what a watch needs of an API server. As a real one does, it takes a watch from a revision that is still to come, and
// sends what is newer than that alone.
type nodesServer struct {
	mu       sync.Mutex
	revision int
	nodes    []*corev1.Node
	ended    func(*nodesServer) // what happens when the first watch has begun, which then ends
	away     int                // how many requests find nobody
	lists    int                // how many asked for all nodes
}

func (s *nodesServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	query := r.URL.Query()
	switch {
	case s.away > 0:
		s.away--
		w.WriteHeader(http.StatusServiceUnavailable)
	case query.Get("watch") == "":
		s.list(w, query.Get("limit"))
	case s.ended != nil:
		s.ended(s)
		s.ended = nil
	default:
		s.watch(w, query.Get("resourceVersion"))
		s.mu.Unlock()
		<-r.Context().Done()
		s.mu.Lock()
	}
}

func (s *nodesServer) list(w http.ResponseWriter, limit string) {
	list := corev1.NodeList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "NodeList"}}
	list.ResourceVersion = strconv.Itoa(s.revision)
	for _, n := range s.nodes {
		if strconv.Itoa(len(list.Items)) == limit {
			list.Continue = "the rest"
			break
		}
		list.Items = append(list.Items, *n)
	}
	if list.Continue == "" {
		s.lists++
	}
	_ = json.NewEncoder(w).Encode(&list)
}

func (s *nodesServer) watch(w http.ResponseWriter, after string) {
	from, _ := strconv.Atoi(after)
	for _, n := range s.nodes {
		if at, _ := strconv.Atoi(n.ResourceVersion); at > from {
			n := n.DeepCopy()
			n.APIVersion, n.Kind = "v1", "Node"
			_ = json.NewEncoder(w).Encode(map[string]any{"type": "MODIFIED", "object": n})
		}
	}
	_ = http.NewResponseController(w).Flush()
}

// TestWatchGoesOn: what happened between two streams is seen after them, whether revisions went on or back.
func TestWatchGoesOn(t *testing.T) {
	a, b := leased("a", "90", "192.0.2.1", "10.244.1.0/24"), leased("b", "100", "192.0.2.2", "10.244.2.0/24")
	for _, tt := range []struct {
		name         string
		meanwhile    func(*nodesServer)
		wantRevision uint64
		wantLeases   []string
		wantLists    int
	}{
		{
			name: "changed",
			meanwhile: func(s *nodesServer) {
				s.revision, s.nodes = 120, []*corev1.Node{a, leased("b", "110", "192.0.2.22", "10.244.2.0/24")}
			},
			wantRevision: 110,
			wantLeases:   []string{"10.244.1.0/24 of a via 192.0.2.1 @90", "10.244.2.0/24 of b via 192.0.2.22 @110"},
			wantLists:    1,
		},
		{
			name: "restored from a backup",
			meanwhile: func(s *nodesServer) {
				s.revision, s.nodes = 50, []*corev1.Node{
					leased("a", "40", "192.0.2.1", "10.244.1.0/24"), leased("c", "45", "192.0.2.3", "10.244.3.0/24"),
				}
			},
			wantRevision: 50,
			wantLeases:   []string{"10.244.1.0/24 of a via 192.0.2.1 @40", "10.244.3.0/24 of c via 192.0.2.3 @45"},
			wantLists:    2,
		},
	} {
		for _, away := range []int{0, 2} {
			t.Run(fmt.Sprintf("%s, %d requests unanswered", tt.name, away), func(t *testing.T) {
				server := &nodesServer{revision: 100, nodes: []*corev1.Node{a, b}, ended: func(s *nodesServer) {
					tt.meanwhile(s)
					s.away = away
				}}
				web := httptest.NewServer(server)
				t.Cleanup(web.Close)
				network, err := subnet.ParseNetwork([]byte(oneFamily))
				require.NoError(t, err)
				store, err := New(Config{Client: &rest.Config{Host: web.URL}, Network: network})
				require.NoError(t, err)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				next, stop := iter.Pull2(store.Watch(ctx))
				defer stop()

				first, err, _ := next()
				require.NoError(t, err)
				require.EqualValues(t, 100, first.Revision)
				then, err, ok := next()
				require.NoError(t, err)
				require.True(t, ok, "the watch is silent")
				assert.Equal(t, tt.wantRevision, then.Revision)
				var leases []string
				for _, l := range then.Leases {
					leases = append(leases, fmt.Sprintf("%s @%d", l, l.Revision))
				}
				assert.Equal(t, tt.wantLeases, leases)
				stop()
				web.Close()
				assert.Equal(t, tt.wantLists, server.lists)
			})
		}
	}
}
