package kube_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/kube"
	"github.com/podweft/podweft/roster"
	"github.com/podweft/podweft/subnet"
)

// annotated is an API server that takes annotations of Nodes too.
type annotated struct{ *apiServer }

func (s annotated) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, patched := strings.CutPrefix(r.URL.Path, nodes+"/")
	if only, one := strings.CutPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name="); one {
		s.mu.Lock()
		defer s.mu.Unlock()
		found := map[string]string{}
		if body, there := s.objects[nodes][only]; there && !s.away {
			found[only] = body
		}
		w.Header().Set("Content-Type", "application/json")
		s.list(w, found, nodes, "1", "")
		return
	}
	if r.Method != http.MethodPatch || !patched {
		s.apiServer.ServeHTTP(w, r)
		return
	}
	name = strings.TrimSuffix(name, "/status")
	w.Header().Set("Content-Type", "application/json")
	var patch, node struct {
		Metadata struct {
			Annotations     map[string]*string
			Labels          map[string]string
			ResourceVersion string
		}
	}
	_ = json.NewDecoder(r.Body).Decode(&patch)
	s.mu.Lock()
	body := s.objects[nodes][name]
	s.mu.Unlock()
	_ = json.Unmarshal([]byte(body), &node)
	if patch.Metadata.ResourceVersion != node.Metadata.ResourceVersion {
		w.WriteHeader(http.StatusConflict)
		_, _ = w.Write([]byte(`{"apiVersion":"v1","kind":"Status","status":"Failure","reason":"Conflict","code":409}`))
		return
	}
	for key, value := range patch.Metadata.Annotations {
		if value == nil {
			s.node(name, "", "")
		} else {
			s.node(name, key, *value)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = w.Write([]byte(s.objects[nodes][name]))
}

// node makes a Node with an annotation, if that has a name; its name says whether the cluster hears of it.
func (s annotated) node(name, annotation, value string) {
	annotations := map[string]string{}
	if annotation != "" {
		annotations[annotation] = value
	}
	text, _ := json.Marshal(annotations)
	ready := "True"
	if strings.HasPrefix(name, "lost") {
		ready = "Unknown"
	}
	s.put(nodes, name, `"rack":"a"},"creationTimestamp":"2026-01-0`+name[len(name)-1:]+`T00:00:00Z","annotations":`+strings.TrimSuffix(string(text), "}"),
		`,"status":{"conditions":[{"type":"Ready","status":"`+ready+`"}]}`)
}

// newRoster has no Nodes yet.
func newRoster(t *testing.T) (annotated, *kube.Roster) {
	t.Helper()
	s, _ := newAPIServer(t)
	web := httptest.NewServer(annotated{s})
	t.Cleanup(web.Close)
	r, err := kube.NewRoster(kube.RosterConfig{Client: &rest.Config{Host: web.URL}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	return annotated{s}, r
}

func member(name string) roster.Node {
	return roster.Node{
		Name: name, Underlay: subnet.Addrs{V4: netip.MustParseAddr("192.0.2.1")}, Backend: "vxlan", AS: 64512,
		Data: subnet.Data{V4: json.RawMessage(`{"VNI":1}`)}, Labels: map[string]string{"not": "written"},
	}
}

// TestRoster: who has joined is known as it describes itself; what is the cluster's to say is the cluster's.
func TestRoster(t *testing.T) {
	s, r := newRoster(t)
	for _, name := range []string{"young-3", "old-1", "lost-2", "mute-4"} {
		s.node(name, "", "")
	}
	ctx := t.Context()
	all, err := r.Nodes(ctx)
	require.NoError(t, err)
	require.Empty(t, all, "nobody has joined")
	for _, name := range []string{"young-3", "old-1", "lost-2"} {
		require.NoError(t, r.Join(ctx, member(name), time.Minute))
	}
	all, err = r.Nodes(ctx)
	require.NoError(t, err)
	require.Len(t, all, 3)
	want := member("old-1")
	want.Labels = map[string]string{"rack": "a"}
	assert.True(t, all[1].Says(want), "%+v", all[1])
	assert.Equal(t, []bool{false, true, true}, []bool{all[0].Alive, all[1].Alive, all[2].Alive})
	assert.Zero(t, all[0].Rank)
	leader, ok := all.Leader()
	assert.True(t, ok)
	assert.Equal(t, "old-1", leader.Name)
	assert.NotEqual(t, all[1].Revision, all[2].Revision)

	before := s.revision
	require.NoError(t, r.Join(ctx, member("old-1"), time.Minute))
	assert.Equal(t, before, s.revision, "what is known is not written")
	moved := member("old-1")
	moved.Underlay.V4 = netip.MustParseAddr("192.0.2.9")
	require.NoError(t, r.Join(ctx, moved, time.Minute))
	again, err := r.Nodes(ctx)
	require.NoError(t, err)
	assert.Equal(t, moved.Underlay, again[1].Underlay)
	assert.Greater(t, again[1].Revision, all[1].Revision)
	assert.Equal(t, all[2].Revision, again[2].Revision)

	for name, want := range map[string]bool{"old-1": false, "lost-2": true, "mute-4": true, "no node": true} {
		forgotten, err := r.ForgetDead(ctx, name)
		require.NoError(t, err, name)
		assert.Equal(t, want, forgotten, name)
	}
	again, err = r.Nodes(ctx)
	require.NoError(t, err)
	require.Len(t, again, 2, "old-1 is alive, and stays known")
	require.NoError(t, r.Join(ctx, member("lost-2"), time.Minute))
	require.NoError(t, r.Forget(ctx, "old-1"))
	require.NoError(t, r.Forget(ctx, "old-1"))
	require.NoError(t, r.Forget(ctx, "no node"))
	s.remove(nodes, "young-3")
	gone, err := roster.Gone(r)(ctx, []string{"old-1", "young-3", "lost-2"})
	require.NoError(t, err)
	assert.Equal(t, []string{"old-1", "young-3"}, gone)
	require.ErrorIs(t, r.Join(ctx, member("no node"), time.Minute), kube.ErrNoSubnet)

	n, err := r.Node(ctx, "mute-4")
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"rack": "a"}, n.Labels)
}

// TestRosterRefuses: what no store takes, and what nobody can read.
func TestRosterRefuses(t *testing.T) {
	_, err := kube.NewRoster(kube.RosterConfig{Annotation: "a b/c d"})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	for _, field := range []string{"Client", "Annotation"} {
		require.ErrorContains(t, err, field)
	}
	s, r := newRoster(t)
	require.ErrorIs(t, r.Join(t.Context(), roster.Node{}, time.Minute), podweft.ErrInvalid)
	require.ErrorIs(t, r.Join(t.Context(), member("a-1"), 0), podweft.ErrInvalid)
	for i, text := range []string{"{", `{"name":"another"}`, `{"name":"bad-3","underlay":{"v4":"2001:db8::1"}}`} {
		s.node("bad-"+strconv.Itoa(i+1), kube.DefaultNodeAnnotation, text)
	}
	all, err := r.Nodes(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 3)
	for _, n := range all {
		require.ErrorContains(t, n.Problem, kube.DefaultNodeAnnotation)
		assert.True(t, n.Underlay.IsZero())
	}
	require.NoError(t, r.Join(t.Context(), member("bad-1"), time.Minute))
	all, err = r.Nodes(t.Context())
	require.NoError(t, err)
	require.NoError(t, all[0].Problem)
}

// TestRosterWatch: what changes is told, and nothing else; while the API server is away the nodes are those of before.
func TestRosterWatch(t *testing.T) {
	s, r := newRoster(t)
	s.node("a-1", "", "")
	ctx, cancel := context.WithCancel(t.Context())
	hints, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() { ended <- r.Watch(ctx, func() { hints <- struct{}{} }) }()
	until := func(what string, enough func(roster.Nodes) bool) {
		t.Helper()
		for timeout := time.After(time.Minute); ; {
			select {
			case <-hints:
			case <-timeout:
				require.Fail(t, "nothing was told of "+what)
			}
			all, err := r.Nodes(t.Context())
			require.NoError(t, err)
			if enough(all) {
				return
			}
		}
	}
	until("the beginning", func(all roster.Nodes) bool { return len(all) == 0 })
	require.NoError(t, r.Join(t.Context(), member("a-1"), time.Minute))
	until("who joins", func(all roster.Nodes) bool { return len(all) == 1 && all[0].Alive })

	s.set(func() { s.away = true })
	all, err := r.Nodes(t.Context())
	require.NoError(t, err)
	assert.Len(t, all, 1)
	s.remove(nodes, "a-1")
	s.set(func() { s.away = false })
	until("who is gone", func(all roster.Nodes) bool { return len(all) == 0 })
	cancel()
	require.NoError(t, <-ended)
	s.set(func() { s.away = true })
	_, err = r.Nodes(t.Context())
	require.Error(t, err, "nobody watches")
	require.Error(t, r.Watch(t.Context(), func() {}), "there is nobody to begin with")
}
