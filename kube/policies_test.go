package kube_test

import (
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/kube"
	"github.com/podweft/podweft/policy"
)

// apiServer is what a watch of policies needs of an API server: lists in pages, a history to watch, which it can forget, and failures.
type apiServer struct {
	mu        sync.Mutex
	revision  int
	objects   map[string]map[string]string // by resource and name
	history   []event
	compacted int           // the last revision that is forgotten
	away      bool          // nobody answers
	changed   chan struct{} // closed by whatever happens
	broken    int           // watches that were ended
}

type event struct {
	revision             int
	resource, kind, body string
}

const (
	nodes     = "/api/v1/nodes"
	spaces    = "/api/v1/namespaces"
	pods      = "/api/v1/pods"
	policies  = "/apis/networking.k8s.io/v1/networkpolicies"
	clusterWs = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies"
)

// newAPIServer has no ClusterNetworkPolicies.
func newAPIServer(t *testing.T) (*apiServer, *kube.Policies) {
	t.Helper()
	s := &apiServer{revision: 100, objects: map[string]map[string]string{nodes: {}, spaces: {}, pods: {}, policies: {}}, changed: make(chan struct{})}
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	source, err := kube.NewPolicies(kube.PoliciesConfig{Client: &rest.Config{Host: web.URL}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = source.Close() })
	return s, source
}

var kindOf = map[string]string{nodes: "Node", spaces: "Namespace", pods: "Pod", policies: "NetworkPolicy", clusterWs: "ClusterNetworkPolicy"}

// put makes an object so; rest is what it has beside its metadata.
func (s *apiServer) put(resource, path, labels, rest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	namespace, name, ok := strings.Cut(path, "/")
	if !ok {
		namespace, name = "", path
	}
	version := strings.TrimPrefix(strings.TrimPrefix(resource[:strings.LastIndex(resource, "/")], "/apis/"), "/api/")
	body := fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"namespace":%q,"name":%q,"resourceVersion":"%d","labels":{%s}}%s}`,
		version, kindOf[resource], namespace, name, s.revision, labels, rest)
	kind := "MODIFIED"
	if s.objects[resource][path] == "" {
		kind = "ADDED"
	}
	s.objects[resource][path] = body
	s.happen(event{s.revision, resource, kind, body})
}

func (s *apiServer) remove(resource, path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	body := s.objects[resource][path]
	delete(s.objects[resource], path)
	s.happen(event{s.revision, resource, "DELETED", body})
}

func (s *apiServer) happen(e event) {
	s.history = append(s.history, e)
	close(s.changed)
	s.changed = make(chan struct{})
}

// set changes how it behaves, and ends all watches.
func (s *apiServer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.broken++
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	query := r.URL.Query()
	objects, served := s.objects[r.URL.Path]
	switch {
	case s.away:
		w.WriteHeader(http.StatusServiceUnavailable)
	case !served:
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"apiVersion":"v1","kind":"Status","status":"Failure","reason":"NotFound","code":404}`))
	case query.Get("watch") != "":
		s.watch(w, r, query.Get("resourceVersion"))
	default:
		s.list(w, objects, r.URL.Path, query.Get("limit"), query.Get("continue"))
	}
}

func (s *apiServer) list(w http.ResponseWriter, objects map[string]string, resource, limit, from string) {
	var names []string
	for name := range objects {
		if name > from {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	next := ""
	if most, _ := strconv.Atoi(limit); len(names) > most {
		names = names[:most]
		next = names[most-1]
	}
	var items []json.RawMessage
	for _, name := range names {
		items = append(items, json.RawMessage(objects[name]))
	}
	version := strings.TrimPrefix(strings.TrimPrefix(resource[:strings.LastIndex(resource, "/")], "/apis/"), "/api/")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": version, "kind": kindOf[resource] + "List", "items": items,
		"metadata": map[string]string{"resourceVersion": strconv.Itoa(s.revision), "continue": next},
	})
}

func (s *apiServer) watch(w http.ResponseWriter, r *http.Request, after string) {
	from, _ := strconv.Atoi(after)
	if from < s.compacted {
		w.WriteHeader(http.StatusGone)
		_, _ = w.Write([]byte(`{"apiVersion":"v1","kind":"Status","status":"Failure","reason":"Expired","code":410}`))
		return
	}
	for broken := s.broken; s.broken == broken; {
		for _, e := range s.history {
			if e.revision > from && e.resource == r.URL.Path {
				from = e.revision
				fmt.Fprintf(w, `{"type":%q,"object":%s}`+"\n", e.kind, e.body)
			}
		}
		_ = http.NewResponseController(w).Flush()
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
			s.mu.Lock()
			return
		}
		s.mu.Lock()
	}
}

// village has a pod that a policy isolates.
func (s *apiServer) village() {
	s.put(nodes, "node-1", "", `,"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"}]}`)
	s.put(spaces, "default", `"team":"a"`, "")
	s.pod("web", "10.244.1.10", `"app":"web"`)
	s.put(policies, "default/web", "", `,"spec":{"podSelector":{"matchLabels":{"app":"web"}},"policyTypes":["Ingress"]}`)
}

func (s *apiServer) pod(name, address, labels string) {
	s.put(pods, "default/"+name, labels, fmt.Sprintf(`,"spec":{"nodeName":"node-1"},"status":{"podIPs":[{"ip":%q}],"message":"%d"}`, address, s.revision))
}

// watching reads what a watch tells into a model of its own, until it is as wanted.
type watching struct {
	t        *testing.T
	next     func() (kube.Changes, error, bool)
	compiler *policy.Compiler
	rules    *policy.Ruleset
	last     kube.Changes
}

func watch(t *testing.T, source *kube.Policies) *watching {
	t.Helper()
	next, stop := iter.Pull2(source.Watch(t.Context()))
	t.Cleanup(stop)
	return &watching{t: t, next: next, compiler: policy.NewCompiler("")}
}

// read takes the next changes.
func (w *watching) read() {
	w.t.Helper()
	c, err, ok := w.next()
	require.NoError(w.t, err)
	require.True(w.t, ok, "the watch has ended")
	w.rules, err = w.compiler.Update(c.Put, c.Gone...)
	require.NoError(w.t, err)
	w.last = c
}

var elsewhere = netip.MustParseAddr("203.0.113.7")

// verdicts are what becomes of a connection from elsewhere to each pod's address, such as "10.244.1.10 denied".
func (w *watching) verdicts() (list []string) {
	for e := range w.rules.Endpoints.All() {
		v, _ := w.rules.Evaluate(policy.Packet{Src: elsewhere, Dst: e.Addr, Protocol: policy.TCP, Port: 80})
		list = append(list, fmt.Sprintf("%s %s", e.Addr, v))
	}
	slices.Sort(list)
	return list
}

func TestPoliciesFollows(t *testing.T) {
	s, source := newAPIServer(t)
	s.village()
	for i := range 600 { // more than fit in two pages
		s.pod(fmt.Sprintf("pod-%03d", i), fmt.Sprintf("10.244.%d.%d", 2+i/200, i%200), "")
	}
	w := watch(t, source)
	w.read()
	assert.Len(t, w.last.Put.Pods, 601)
	assert.Len(t, w.last.Put.Policies, 1)
	assert.Equal(t, []policy.Namespace{{Name: "default", Labels: map[string]string{"team": "a", "kubernetes.io/metadata.name": "default"}}}, w.last.Put.Namespaces)
	assert.Len(t, w.last.Put.Nodes, 1)
	assert.Contains(t, w.verdicts(), "10.244.1.10 denied")
	assert.Contains(t, w.verdicts(), "10.244.2.0 allowed")

	s.pod("pod-000", "10.244.2.0", "")            // as it was, but for its status: nobody hears of it
	s.pod("pod-001", "10.244.2.1", `"app":"web"`) // isolated by its label
	w.read()
	assert.Equal(t, []string{"pod-001"}, names(w.last.Put.Pods))
	assert.Contains(t, w.verdicts(), "10.244.2.1 denied")

	s.remove(pods, "default/pod-001")
	w.read()
	assert.Equal(t, []policy.ID{{Kind: policy.KindPod, Namespace: "default", Name: "pod-001"}}, w.last.Gone)

	s.put(policies, "default/web", "", `,"spec":{"podSelector":{"matchLabels":{"app":"web"}},"ingress":[{"from":[{"ipBlock":{"cidr":"everywhere"}}]}]}`)
	c, err, ok := w.next()
	require.NoError(t, err)
	require.True(t, ok)
	require.Len(t, c.Problems, 1)
	assert.ErrorContains(t, c.Problems[0], `policy default/web: spec.ingress[0].from[0].ipBlock.cidr: "everywhere"`)
	w.rules, err = w.compiler.Update(c.Put, c.Gone...)
	require.Error(t, err)
	assert.Contains(t, w.verdicts(), "10.244.1.10 denied", "what makes no sense opens nothing")

	s.remove(policies, "default/web")
	w.read()
	assert.Contains(t, w.verdicts(), "10.244.1.10 allowed")
}

// TestPoliciesWatchGoesOn: what happened while nobody could be asked is seen after it, from the history or, where that is forgotten, from
// a list.
func TestPoliciesWatchGoesOn(t *testing.T) {
	for _, forgets := range []bool{false, true} {
		t.Run(fmt.Sprintf("forgets=%t", forgets), func(t *testing.T) {
			s, source := newAPIServer(t)
			s.village()
			s.pod("other", "10.244.1.11", "")
			w := watch(t, source)
			w.read()
			s.set(func() { s.away = true })
			s.remove(pods, "default/web")
			s.pod("new", "10.244.1.12", `"app":"web"`)
			s.set(func() {
				s.away = false
				if forgets {
					s.compacted, s.history = s.revision, nil
				}
			})
			want := []string{"10.244.1.11 allowed", "10.244.1.12 denied"}
			for begin := time.Now(); !slices.Equal(want, w.verdicts()); w.read() {
				require.Less(t, time.Since(begin), time.Minute)
			}
			assert.NotContains(t, append(names(w.last.Put.Pods), "new"), "other", "it is as it was")
		})
	}
}

// TestPoliciesOfClusters: the tier of administrators is followed where there is one.
func TestPoliciesOfClusters(t *testing.T) {
	s, source := newAPIServer(t)
	s.village()
	s.objects[clusterWs] = map[string]string{}
	const spec = `,"spec":{"tier":%q,"priority":1,"subject":{"namespaces":{}},"ingress":[{"action":"Accept","from":[{"namespaces":{}}]}]}`
	s.put(clusterWs, "open", "", fmt.Sprintf(spec, "Admin"))
	w := watch(t, source)
	w.read()
	require.Len(t, w.last.Put.ClusterPolicies, 1)
	assert.Equal(t, policy.Admin, w.last.Put.ClusterPolicies[0].Tier)

	s.put(clusterWs, "open", "", fmt.Sprintf(spec, "Lowest"))
	w.read()
	assert.Equal(t, []policy.ID{{Kind: policy.KindClusterPolicy, Name: "open"}}, w.last.Gone)
	require.Len(t, w.last.Problems, 1)
	assert.ErrorContains(t, w.last.Problems[0], `cluster policy open is not in force`)
	assert.ErrorIs(t, w.last.Problems[0], podweft.ErrInvalid)

	s.put(clusterWs, "open", "", fmt.Sprintf(spec, "Baseline"))
	w.read()
	assert.Equal(t, policy.Baseline, w.last.Put.ClusterPolicies[0].Tier)
	s.remove(clusterWs, "open")
	w.read()
	assert.Equal(t, []policy.ID{{Kind: policy.KindClusterPolicy, Name: "open"}}, w.last.Gone)
}

func TestPoliciesFirstList(t *testing.T) {
	s, source := newAPIServer(t)
	s.village()
	c, err := source.List(t.Context())
	require.NoError(t, err)
	assert.Len(t, c.Put.Policies, 1)
	s.set(func() { delete(s.objects, policies) })
	_, err = source.List(t.Context())
	require.ErrorContains(t, err, "list networkpolicies: ", "this one is not optional")
	told := 0
	for _, err := range source.Watch(t.Context()) {
		require.Error(t, err)
		told++
	}
	assert.Equal(t, 1, told, "it ends")

	_, err = kube.NewPolicies(kube.PoliciesConfig{Timeout: -1})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	assert.Equal(t, "Client: is missing: say how the API server is reached\nTimeout: -1ns is negative: leave it zero for fifteen seconds", err.Error())
}

func names(list []policy.Pod) (out []string) {
	for _, p := range list {
		out = append(out, p.Name)
	}
	return out
}
