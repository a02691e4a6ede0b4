package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func lined(text ...string) string { return strings.Join(text, "\n") + "\n" }

func TestCommands(t *testing.T) {
	const cluster, web, wider = "testdata/cluster.yaml", "testdata/web.yaml", "testdata/wider.yaml"
	tests := []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"check", []string{"check", cluster, web}, exitGood, lined("1 policy, 3 pods, 2 namespaces: 0 errors, 0 warnings")},
		{"check policies alone", []string{"check", web}, exitGood, lined(
			"warning: there are no pods in these files: whom policies select cannot be told",
			"1 policy, 0 pods, 1 namespace: 0 errors, 1 warning")},
		{"check traps", []string{"check", cluster, "testdata/traps.yaml"}, exitGood, lined(
			"warning: policy default/nobody selects no pod of these files",
			"warning: policy default/oneway has rules for egress without effect: its policyTypes do not name it",
			"warning: policy default/proxy selects no pod of these files: pod default/proxy is on its host's network, where policies do not reach",
			"warning: policy default/useless, ingress[0]: pods role=cleint in namespace default are none",
			"warning: policy default/useless, ingress[1]: its blocks are all excepted: nothing is left of them",
			`warning: policy default/useless, ingress[2]: no pod calls a TCP port "metrics"`,
			"warning: policy default/useless, ingress[3]: its blocks are loopback, which is never seen on a network",
			"warning: policy test/six, egress[0]: its blocks are IPv6, and the pods that it speaks of have no such address",
			"warning: policy test/six: nothing allows egress on UDP port 53, so that names cannot be looked up",
			"6 policies, 5 pods, 2 namespaces: 0 errors, 9 warnings")},
		{"why allowed", []string{"why", "client", "web", "80", cluster, web}, exitGood, lined(
			"10.244.2.11 -> 10.244.1.10 TCP 80: allowed",
			"  egress  pod default/client: no policy speaks of it",
			"  ingress pod default/web: allowed by policy default/web, ingress[0].from[0], pods role=client in namespace default",
			"fd00::11 -> fd00::10 TCP 80: allowed",
			"  egress  pod default/client: no policy speaks of it",
			"  ingress pod default/web: allowed by policy default/web, ingress[0].from[0], pods role=client in namespace default")},
		{"why denied", []string{"why", "test/client", "10.244.1.10", "tcp/80", cluster, web}, exitProblem, lined(
			"10.244.2.12 -> 10.244.1.10 TCP 80: denied",
			"  egress  pod test/client: no policy speaks of it",
			"  ingress pod default/web: isolated by policy default/web, and nothing there allows it",
			"  policy default/web, ingress[0]: the source 10.244.2.12 is none of: pods role=client in namespace default")},
		{"diff", []string{"diff", "OLD", "NEW"}, exitProblem, lined(
			"+ test/client (10.244.2.12) -> default/web (10.244.1.10) TCP 80: pod default/web: allowed by policy default/web, ingress[0].from[1], all pods in namespaces project=test")},
		{"diff of nothing", []string{"diff", "OLD", "OLD"}, exitGood, lined("no connection changes")},
		{"help", []string{"--help"}, exitGood, usage},
	}
	dirs := map[string]string{"OLD": together(t, cluster, web), "NEW": together(t, cluster, wider)}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			args := append([]string{}, test.args...)
			for i, a := range args {
				if dirs[a] != "" {
					args[i] = dirs[a]
				}
			}
			var out, errs bytes.Buffer
			status := run(args, strings.NewReader(""), &out, &errs)
			assert.Empty(t, errs.String())
			assert.Equal(t, test.want, out.String())
			assert.Equal(t, test.status, status)
		})
	}
}

// TestDiffLooksBetween: what changes between the ends of ranges, and beyond all of them, is told too.
func TestDiffLooksBetween(t *testing.T) {
	const policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\nspec: {podSelector: {matchLabels: {app: web}}, ingress: [%s]}\n"
	tests := []struct{ name, before, after, want string }{
		{"ports", `{ports: [{port: 8000, endPort: 8010}]}`, `{ports: [{port: 8000, endPort: 8002}, {port: 8006, endPort: 8010}]}`,
			"- test/client (10.244.2.12) -> default/web (10.244.1.10) TCP 8003-8005: pod default/web: isolated by policy default/web, and nothing there allows it\n"},
		{"ports of two protocols", `{ports: [{port: 80}]}`, `{ports: [{port: 443}, {protocol: UDP, port: 443}, {port: 80}]}`,
			"+ 0.0.0.0/0 -> default/web (10.244.1.10) TCP 443, UDP 443: pod default/web: allowed by policy default/web, ingress[0]\n"},
		{"a hole", `{from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.64/26]}}]}`, `{from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.64/27]}}]}`,
			"+ 203.0.113.96/27 -> default/web (10.244.1.10) on every port: pod default/web: allowed by policy default/web, ingress[0].from[0], 203.0.113.0/24 except 203.0.113.64/27\n"},
		{"beyond all blocks", `{}`, `{from: [{ipBlock: {cidr: "2001:db8::/32"}}]}`,
			"- 2001:db9::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff -> default/web (fd00::10) on every port: pod default/web: isolated by policy default/web, and nothing there allows it\n"},
		{"protocols without ports", `{}`, `{ports: [{}, {protocol: UDP}, {protocol: SCTP}]}`,
			"- ::/0 -> default/web (fd00::10) other protocols: pod default/web: isolated by policy default/web, and nothing there allows it\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var dirs []string
			for _, rules := range []string{test.before, test.after} {
				dirs = append(dirs, together(t, "testdata/cluster.yaml"))
				text := fmt.Sprintf(policy, rules)
				require.NoError(t, os.WriteFile(filepath.Join(dirs[len(dirs)-1], "policy.yaml"), []byte(text), 0o600))
			}
			var out, errs bytes.Buffer
			assert.Equal(t, exitProblem, run([]string{"diff", dirs[0], dirs[1]}, nil, &out, &errs), errs.String())
			assert.Contains(t, out.String(), test.want)
		})
	}
}

// TestWhyInCluster asks an API server that has a pod which a policy isolates, and a policy that makes no sense.
func TestWhyInCluster(t *testing.T) {
	lists := map[string]string{
		"/api/v1/nodes":      "",
		"/api/v1/namespaces": `{"metadata":{"name":"default"}}`,
		"/api/v1/pods": `{"metadata":{"namespace":"default","name":"web","labels":{"app":"web"}},"status":{"podIPs":[{"ip":"10.244.1.10"}]}},
			{"metadata":{"namespace":"default","name":"client"},"status":{"podIPs":[{"ip":"10.244.1.11"}]}}`,
		"/apis/networking.k8s.io/v1/networkpolicies": `{"metadata":{"namespace":"default","name":"web"},"spec":{"podSelector":{"matchLabels":{"app":"web"}}}},
			{"metadata":{"namespace":"default","name":"wrong"},"spec":{"ingress":[{"from":[{"ipBlock":{"cidr":"all"}}]}],"podSelector":{"matchLabels":{"app":"db"}}}}`,
	}
	kinds := map[string]string{"nodes": "Node", "namespaces": "Namespace", "pods": "Pod", "networkpolicies": "NetworkPolicy"}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		items, served := lists[r.URL.Path]
		w.Header().Set("Content-Type", "application/json")
		if !served {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
			return
		}
		version := strings.TrimPrefix(strings.TrimPrefix(path.Dir(r.URL.Path), "/apis/"), "/api/")
		_, _ = fmt.Fprintf(w, `{"kind":"%sList","apiVersion":%q,"metadata":{"resourceVersion":"1"},"items":[%s]}`, kinds[path.Base(r.URL.Path)], version, items)
	}))
	t.Cleanup(server.Close)
	kubeconfig := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], clusters: [{name: c, cluster: {server: %q}}]}`, server.URL)
	require.NoError(t, os.WriteFile(kubeconfig, []byte(text), 0o600))

	var out, errs bytes.Buffer
	status := run([]string{"why", "--kubeconfig", kubeconfig, "client", "web", "80"}, nil, &out, &errs)
	assert.Equal(t, lined("10.244.1.11 -> 10.244.1.10 TCP 80: denied",
		"  egress  pod default/client: no policy speaks of it",
		"  ingress pod default/web: isolated by policy default/web, and nothing there allows it",
		"  policy default/web allows no ingress at all"), out.String())
	assert.Contains(t, errs.String(), `policy default/wrong: spec.ingress[0].from[0].ipBlock.cidr: "all"`)
	assert.Equal(t, exitProblem, status)

	errs.Reset()
	assert.Equal(t, exitProblem, run([]string{"why", "--kubeconfig", "missing", "client", "web", "80"}, nil, &out, &errs))
	assert.Contains(t, errs.String(), "podweft-policy: missing: ")
	assert.Equal(t, exitUsage, run([]string{"why", "--kubeconfig", kubeconfig, "client", "web", "80", "file"}, nil, &out, &errs))
}

// together is a directory with copies of files.
func together(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		data, err := os.ReadFile(f)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(f)), data, 0o600))
	}
	return dir
}

func TestCheckReportsErrors(t *testing.T) {
	var out, errs bytes.Buffer
	assert.Equal(t, exitProblem, run([]string{"check", "testdata/broken.yaml"}, nil, &out, &errs))
	assert.Empty(t, errs.String())
	for _, text := range []string{"error: ", "ingress[0].from[0].ipBlock.cidr", "10.0.0.0/33", "ingress[0].ports[0].endPort", "80 comes before port 90"} {
		assert.Contains(t, out.String(), text)
	}
}

func TestRules(t *testing.T) {
	var out, errs bytes.Buffer
	require.Equal(t, exitGood, run([]string{"rules", "--node", "node-1", "testdata/cluster.yaml", "testdata/web.yaml"}, nil, &out, &errs), errs.String())
	for _, line := range []string{
		"table inet podweft-policy {\n",
		"\t\telements = { 10.244.1.10 : goto k-",
		"ip daddr . th dport @n-",
		`counter drop comment "isolated by policy default/web"`,
	} {
		assert.Contains(t, out.String(), line)
	}
	assert.NotContains(t, out.String(), "10.244.2.11 :", "another node's pod")

	out.Reset()
	require.Equal(t, exitGood, run([]string{"rules", "--node", "node-1", "--iptables", "testdata/cluster.yaml", "testdata/web.yaml"}, nil, &out, &errs), errs.String())
	for _, line := range []string{
		"# ipset -exist restore\ncreate pw",
		"# iptables-restore --noflush\n*mangle\n",
		"\n# ip6tables-restore --noflush\n",
		` -m comment --comment "isolated by policy default/web" -j DROP`,
	} {
		assert.Contains(t, out.String(), line)
	}
}

func TestStandardInput(t *testing.T) {
	var out, errs bytes.Buffer
	web, err := os.Open("testdata/web.yaml")
	require.NoError(t, err)
	defer web.Close()
	assert.Equal(t, exitGood, run([]string{"check", "testdata/cluster.yaml", "-"}, web, &out, &errs))
	assert.Equal(t, lined("1 policy, 3 pods, 2 namespaces: 0 errors, 0 warnings"), out.String())
}

func TestRefusals(t *testing.T) {
	const cluster = "testdata/cluster.yaml"
	tests := []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"nothing", nil, exitUsage, usage},
		{"no such command", []string{"explain"}, exitUsage, usage},
		{"no files", []string{"check"}, exitUsage, "podweft-policy: no file is named: podweft-policy --help says more\n"},
		{"no such file", []string{"rules", "nothing.yaml"}, exitProblem, "podweft-policy: open nothing.yaml: no such file or directory\n"},
		{"why of too little", []string{"why", "a", "b"}, exitUsage, "podweft-policy: why needs SRC, DST, PORT and files, or --kubeconfig: podweft-policy --help says more\n"},
		{"no such pod", []string{"why", "nobody", "web", "80", cluster}, exitProblem, "podweft-policy: nobody is no address, and no pod of that name is there\n"},
		{"no such port", []string{"why", "web", "web", "http", cluster}, exitUsage,
			"podweft-policy: \"http\" is not a port: write one like 80 or udp/53: podweft-policy --help says more\n"},
		{"no family", []string{"why", "test/client", "fd00::10", "80", cluster}, exitProblem,
			"podweft-policy: test/client and fd00::10 have no address family in common\n"},
		{"no pods there", []string{"rules", "--node", "moon", cluster}, exitProblem, "podweft-policy: no pod of these files is on moon\n"},
		{"several nodes", []string{"rules", cluster}, exitProblem,
			"podweft-policy: Rules: are for pods of node-1 and node-2: compile them for this node: NewCompiler(name) (name one with --node)\n"},
		{"diff of one", []string{"diff", cluster}, exitUsage, "podweft-policy: diff needs OLD and NEW: podweft-policy --help says more\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			assert.Equal(t, test.status, run(test.args, nil, &out, &errs))
			assert.Equal(t, test.want, errs.String())
			assert.Empty(t, out.String())
		})
	}
}
