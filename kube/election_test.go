package kube_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/kube"
)

// leaseServer has one Lease, or none yet.
type leaseServer struct {
	mu       sync.Mutex
	revision int
	lease    *coordinationv1.Lease
	away     bool
}

func (s *leaseServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	refuse := func(code int, reason string) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "code": code})
	}
	var written coordinationv1.Lease
	if body, _ := io.ReadAll(r.Body); len(body) > 0 {
		scheme := runtime.NewScheme()
		_ = coordinationv1.AddToScheme(scheme)
		if _, _, err := serializer.NewCodecFactory(scheme).UniversalDeserializer().Decode(body, nil, &written); err != nil {
			refuse(http.StatusBadRequest, err.Error())
			return
		}
	}
	switch {
	case s.away:
		refuse(http.StatusServiceUnavailable, "ServiceUnavailable")
		return
	case r.Method == http.MethodGet && s.lease == nil:
		refuse(http.StatusNotFound, "NotFound")
		return
	case r.Method == http.MethodPost && s.lease != nil:
		refuse(http.StatusConflict, "AlreadyExists")
		return
	case r.Method == http.MethodPut && written.ResourceVersion != s.lease.ResourceVersion:
		refuse(http.StatusConflict, "Conflict")
		return
	case r.Method != http.MethodGet:
		s.revision++
		written.ResourceVersion = strconv.Itoa(s.revision)
		s.lease = &written
	}
	answer := s.lease.DeepCopy()
	answer.APIVersion, answer.Kind = "coordination.k8s.io/v1", "Lease"
	_ = json.NewEncoder(w).Encode(answer)
}

func TestElection(t *testing.T) {
	s := &leaseServer{}
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	candidate := func(name string) func() bool {
		e, err := kube.NewElection(kube.ElectionConfig{
			Client: &rest.Config{Host: web.URL}, Namespace: "kube-system", Name: "collector", Candidate: name, Term: time.Second,
		})
		require.NoError(t, err)
		t.Cleanup(func() { _ = e.Close() })
		return func() bool {
			t.Helper()
			leads, err := e.Lead(t.Context())
			require.NoError(t, err)
			return leads
		}
	}
	a, b := candidate("a"), candidate("b")
	assert.True(t, a(), "nobody else was there")
	assert.False(t, b())
	assert.True(t, a(), "it goes on")
	assert.False(t, b(), "it was heard of")
	for until := time.Now().Add(time.Minute); !b(); time.Sleep(50 * time.Millisecond) {
		require.True(t, time.Now().Before(until), "the one that is silent leads for ever")
	}
	assert.False(t, a(), "another one took its place")
	assert.Equal(t, int32(1), *s.lease.Spec.LeaseTransitions)
	assert.Equal(t, "b", *s.lease.Spec.HolderIdentity)
}

// TestElectionOfMany: of those that come in one moment, one wins.
func TestElectionOfMany(t *testing.T) {
	web := httptest.NewServer(&leaseServer{})
	t.Cleanup(web.Close)
	won := make(chan bool, 20)
	for i := range cap(won) {
		e, err := kube.NewElection(kube.ElectionConfig{Client: &rest.Config{Host: web.URL}, Namespace: "n", Name: "x", Candidate: strconv.Itoa(i)})
		require.NoError(t, err)
		t.Cleanup(func() { _ = e.Close() })
		go func() {
			leads, err := e.Lead(t.Context())
			assert.NoError(t, err)
			won <- leads
		}()
	}
	winners := 0
	for range cap(won) {
		if <-won {
			winners++
		}
	}
	assert.Equal(t, 1, winners)
}

func TestElectionRefuses(t *testing.T) {
	_, err := kube.NewElection(kube.ElectionConfig{Term: time.Millisecond})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	for _, field := range []string{"Client", "Namespace", "Name", "Candidate", "Term"} {
		require.ErrorContains(t, err, field)
	}
	web := httptest.NewServer(&leaseServer{away: true})
	t.Cleanup(web.Close)
	e, err := kube.NewElection(kube.ElectionConfig{Client: &rest.Config{Host: web.URL}, Namespace: "n", Name: "x", Candidate: "a"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = e.Close() })
	leads, err := e.Lead(t.Context())
	require.Error(t, err, "nobody knows")
	assert.False(t, leads)
}
