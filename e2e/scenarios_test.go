package e2e

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"sync"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

var policies = flag.String("policies", "../kube/netpol/testdata/tutorial-*.yaml", "the four policies that tutorials have, in their order")

// clients are the pods that testdata/policies.yml has on each node, by their namespaces and labels.
var clients = []string{"default/tester", "default/stranger", "test/tester", "test/stranger", "myproject/frontend"}

// scenarios are the clients that each of the tutorials' policies lets through to the servers' port 80.
var scenarios = [][]string{
	{"default/tester"},
	{"default/tester", "test/tester", "test/stranger"},
	{"test/tester"},
	{"myproject/frontend"},
}

// obey has pods try what policies allow and what they do not, from both nodes to both.
func (w *world) obey() {
	w.t.Helper()
	w.apply("testdata/policies.yml")
	everybody := func(string, int) bool { return true }
	w.expect("no policy", everybody)
	files, err := filepath.Glob(*policies)
	require.NoError(w.t, err)
	require.Len(w.t, files, len(scenarios))
	for i, file := range files {
		w.apply(file) // all have one name
		w.expect(file, func(client string, port int) bool { return port == 80 && slices.Contains(scenarios[i], client) })
	}

	w.apply(files[0])
	label := func(role string, open ...string) {
		w.t.Helper()
		for _, p := range w.cluster.Pods("default", "app=stranger") {
			patch(w.t, w.cluster, p.Name, fmt.Sprintf(`{"metadata": {"labels": {"role": %s}}}`, role))
		}
		w.expect("strangers with role "+role, func(client string, port int) bool { return port == 80 && slices.Contains(open, client) })
	}
	label(`"test"`, "default/tester", "default/stranger")
	label("null", "default/tester")
	remove(w.t, w.cluster, "networking.k8s.io/v1", "NetworkPolicy", "default", "test-network-policy")
	w.expect("the policy deleted", everybody)

	w.cluster.ApplyText(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: default, name: out},
		spec: {podSelector: {matchLabels: {app: stranger}}, policyTypes: [Egress],
			egress: [{to: [{podSelector: {matchLabels: {app: myapp-v1}}}], ports: [{protocol: TCP, port: 81}]}]}}`)
	w.expect("egress to a port", func(client string, port int) bool { return client != "default/stranger" || port == 81 })
	remove(w.t, w.cluster, "networking.k8s.io/v1", "NetworkPolicy", "default", "out")
	w.neverEarly()
	w.neverReached()
}

// attempt is somebody's to reach a server.
type attempt struct {
	client   string
	from, to *corev1.Pod
	at       string // its address
	port     int
}

// attempts are all that there are, once all pods run.
func (w *world) attempts() (all []attempt, err error) {
	servers := w.cluster.Pods("default", "app=myapp-v1")
	for _, client := range clients {
		namespace, app := filepath.Split(client)
		pods := w.cluster.Pods(filepath.Clean(namespace), "app="+app)
		for _, pair := range [][]corev1.Pod{servers, pods} {
			if len(pair) != len(w.machines) || slices.ContainsFunc(pair, func(p corev1.Pod) bool { return !isReady(&p) }) {
				return nil, fmt.Errorf("not all of %s and of the servers run", client)
			}
		}
		for i := range pods {
			for j := range servers {
				for _, at := range servers[j].Status.PodIPs {
					for _, port := range []int{80, 81} {
						all = append(all, attempt{client, &pods[i], &servers[j], at.IP, port})
					}
				}
			}
		}
	}
	return all, nil
}

// expect waits until what is open is what should be, and nothing else.
func (w *world) expect(when string, open func(client string, port int) bool) {
	w.t.Helper()
	await(w.t, func() error {
		all, err := w.attempts()
		if err != nil {
			return err
		}
		errs := make([]error, len(all))
		var group sync.WaitGroup
		for i, a := range all {
			on := w.on(a.from)
			group.Go(func() {
				answer, err := on.Get(w.t.Context(), fmt.Sprintf("http://%s:8080/get?url=%s", a.from.Status.PodIP, url.QueryEscape(page(a.at, a.port))))
				if err != nil {
					errs[i] = err
					return
				}
				defer answer.Body.Close()
				status := http.StatusBadGateway
				if open(a.client, a.port) {
					status = http.StatusOK
				}
				if answer.StatusCode != status {
					errs[i] = fmt.Errorf("%s: %s on %s to port %d of %s on %s: %s", when, a.client, a.from.Spec.NodeName, a.port, a.at, a.to.Spec.NodeName, answer.Status)
				}
			})
		}
		group.Wait()
		return errors.Join(errs...)
	})
}

// neverEarly has a pod whose policy lets nothing out try from its first moment, and one beside it that no policy selects.
func (w *world) neverEarly() {
	w.t.Helper()
	w.cluster.ApplyText(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: default, name: closed},
		spec: {podSelector: {matchLabels: {app: closed}}, policyTypes: [Egress]}}`)
	addresses := w.web[0].Status.PodIPs
	at := addresses[len(addresses)-1].IP
	for _, app := range []string{"closed", "open"} {
		w.cluster.ApplyText(fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {namespace: default, name: %s, labels: {app: %s}}, spec: {
			terminationGracePeriodSeconds: 1,
			containers: [{name: main, image: "registry.test/podtool:1", args: [serve, -first, "%s"]}]}}`, app, app, page(at, 8080)))
		var pod *corev1.Pod
		await(w.t, func() error {
			if pod = w.ready("app="+app, ""); pod == nil {
				return fmt.Errorf("%s does not run", app)
			}
			return nil
		})
		var first struct{ Tries, Answers int }
		require.NoError(w.t, json.Unmarshal([]byte(w.ask(pod, "/first")), &first))
		w.t.Logf("%s: %d tries from its first moment, %d answers", app, first.Tries, first.Answers)
		assert.Positive(w.t, first.Tries)
		assert.Equal(w.t, app == "open", first.Answers > 0, "%s: %d answers to %d tries", app, first.Answers, first.Tries)
	}
}

// neverReached has pods of both nodes send datagrams to all addresses that a pod can get, and then pods come that a policy closes: none
// may ever arrive. It is the pods' kernel that counts, from the first moment of their network.
func (w *world) neverReached() {
	w.t.Helper()
	w.cluster.ApplyText(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: default, name: sealed},
		spec: {podSelector: {matchExpressions: [{key: app, operator: In, values: [myapp-v1, sealed]}]}, policyTypes: [Ingress]}}`)
	w.expect("the servers closed", func(string, int) bool { return false }) // so it is in force on both nodes
	path := "/spray?" + url.Values{"to": w.blocks()}.Encode()
	for _, pod := range w.web {
		w.ask(pod, path) // answered after a round
	}
	for _, m := range w.machines {
		for i := range 3 {
			w.cluster.ApplyText(fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {namespace: default, name: %s-%d, labels: {app: sealed}}, spec: {
				nodeName: %[1]s, terminationGracePeriodSeconds: 1, containers: [{name: main, image: "registry.test/podtool:1", args: [serve]}]}}`, m.Name(), i))
		}
	}
	var sealed []corev1.Pod
	await(w.t, func() error {
		sealed = w.cluster.Pods("default", "app=sealed")
		if len(sealed) != 3*len(w.machines) || slices.ContainsFunc(sealed, func(p corev1.Pod) bool { return !isReady(&p) }) {
			return errors.New("not all closed pods run")
		}
		return nil
	})
	for range 10 {
		for _, pod := range w.web {
			w.ask(pod, path)
		}
	}
	for _, pod := range sealed {
		assert.Equal(w.t, "0\n", w.ask(&pod, "/datagrams"), "%s on %s at %s has been reached", pod.Name, pod.Spec.NodeName, pod.Status.PodIP)
	}
	remove(w.t, w.cluster, "networking.k8s.io/v1", "NetworkPolicy", "default", "sealed")
	for _, pod := range sealed {
		await(w.t, func() error {
			if w.ask(&pod, "/datagrams") == "0\n" {
				return fmt.Errorf("nothing arrives at %s, which is open now", pod.Name)
			}
			return nil
		})
	}
	w.t.Logf("%d pods that a policy closes came while datagrams were sent to all addresses; without it these arrive", len(sealed))
	for _, pod := range w.web {
		w.ask(pod, "/spray")
	}
	for _, pod := range sealed {
		remove(w.t, w.cluster, "v1", "Pod", "default", pod.Name)
	}
}

// blocks are where all pods have their addresses.
func (w *world) blocks() (prefixes []string) {
	w.t.Helper()
	store := newBlockStore(w.t, w.cluster.Admin())
	for _, family := range []netip.Prefix{everything, netip.MustParsePrefix("::/0")} {
		blocks, err := store.Blocks(w.t.Context(), family)
		require.NoError(w.t, err)
		for _, b := range blocks {
			prefixes = append(prefixes, b.Prefix.String())
		}
	}
	require.NotEmpty(w.t, prefixes)
	return prefixes
}
