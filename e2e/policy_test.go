package e2e

import (
	"fmt"
	"iter"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/podweft/podweft/e2e/cluster"
	"github.com/podweft/podweft/kube"
	"github.com/podweft/podweft/policy"
)

// TestPolicies: what an agent with the rights that are documented sees of policies and pods is what is in the cluster, in spite of an
// API server that goes away; and of cluster policies when somebody has installed them.
func TestPolicies(t *testing.T) {
	c := cluster.Start(t, nil)
	c.AddAccount("default", "default") // every pod has one
	c.AddNode("node-1", "10.244.1.0/24")
	apply(t, c, `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: policies}, rules: [
		{apiGroups: [""], resources: [nodes, namespaces, pods], verbs: [list, watch]},
		{apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [list, watch]},
		{apiGroups: [policy.networking.k8s.io], resources: [clusternetworkpolicies], verbs: [list, watch]}]}`)
	apply(t, c, `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: policies},
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: policies},
		subjects: [{kind: ServiceAccount, namespace: default, name: agent}]}`)
	agent := rest.AnonymousClientConfig(c.Admin())
	agent.BearerToken = c.Token("default", c.AddAccount("default", "agent"))
	const many = 300 // more than fit in a page
	for i := range many {
		addPod(t, c, fmt.Sprintf("pod-%03d", i), fmt.Sprintf("10.244.%d.%d", 2+i/200, 1+i%200))
	}
	addPod(t, c, "web", "10.244.1.10")
	apply(t, c, `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: default, name: web},
		spec: {podSelector: {matchLabels: {name: web}}, ingress: [{from: [{podSelector: {matchLabels: {role: client}}}]}]}}`)

	source, err := kube.NewPolicies(kube.PoliciesConfig{Client: agent})
	require.NoError(t, err)
	t.Cleanup(func() { _ = source.Close() })
	w := follow(t, source)
	assert.Equal(t, many+1, w.pods)
	assert.Equal(t, policy.Denied, w.verdict("10.244.2.1", "10.244.1.10"))

	label := func(pod, role string) {
		patch(t, c, pod, fmt.Sprintf(`{"metadata": {"labels": {"role": %q}}}`, role))
	}
	label("pod-000", "client")
	w.until(policy.Allowed, "10.244.2.1", "10.244.1.10")
	c.StopServer()
	c.StartServer()
	label("pod-000", "nobody")
	w.until(policy.Denied, "10.244.2.1", "10.244.1.10")
	remove(t, c, "networking.k8s.io/v1", "NetworkPolicy", "default", "web")
	w.until(policy.Allowed, "10.244.2.1", "10.244.1.10")

	apply(t, c, `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition,
		metadata: {name: clusternetworkpolicies.policy.networking.k8s.io, annotations: {api-approved.kubernetes.io: "unapproved, for a test"}},
		spec: {group: policy.networking.k8s.io, scope: Cluster, names: {kind: ClusterNetworkPolicy, plural: clusternetworkpolicies}, versions: [
			{name: v1alpha2, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}`)
	admin := `{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: closed},
		spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}`
	for begin := time.Now(); tryApply(t, c, admin) != nil; time.Sleep(100 * time.Millisecond) {
		require.Less(t, time.Since(begin), patience, "the kind is not served")
	}
	w = follow(t, source)
	assert.Equal(t, policy.Denied, w.verdict("10.244.2.1", "10.244.1.10"))
	remove(t, c, "policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", "", "closed")
	w.until(policy.Allowed, "10.244.2.1", "10.244.1.10")
}

// followed is what a watch has told so far, compiled.
type followed struct {
	t        *testing.T
	next     func() (kube.Changes, error, bool)
	compiler *policy.Compiler
	rules    *policy.Ruleset
	pods     int
}

// follow watches, and has read what there is.
func follow(t *testing.T, source *kube.Policies) *followed {
	t.Helper()
	next, stop := iter.Pull2(source.Watch(t.Context()))
	t.Cleanup(stop)
	f := &followed{t: t, next: next, compiler: policy.NewCompiler("")}
	f.read()
	return f
}

func (f *followed) read() {
	f.t.Helper()
	c, err, ok := f.next()
	require.NoError(f.t, err)
	require.True(f.t, ok)
	require.Empty(f.t, c.Problems)
	f.pods += len(c.Put.Pods)
	f.rules, err = f.compiler.Update(c.Put, c.Gone...)
	require.NoError(f.t, err)
}

func (f *followed) verdict(src, dst string) policy.Verdict {
	v, _ := f.rules.Evaluate(policy.Packet{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Protocol: policy.TCP, Port: 80})
	return v
}

// until reads on until that is the verdict.
func (f *followed) until(want policy.Verdict, src, dst string) {
	f.t.Helper()
	for f.verdict(src, dst) != want {
		f.read()
	}
}

// addPod makes a pod that runs on node-1, as the scheduler and a kubelet do together. It has its name for a label.
func addPod(t *testing.T, c *cluster.Cluster, name, address string) {
	t.Helper()
	apply(t, c, fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {namespace: default, name: %s, labels: {name: %s}},
		spec: {nodeName: node-1, containers: [{name: main, image: none}]}}`, name, name))
	patch(t, c, name, fmt.Sprintf(`{"status": {"phase": "Running", "podIP": %q, "podIPs": [{"ip": %q}]}}`, address, address), "status")
}

func apply(t *testing.T, c *cluster.Cluster, text string) {
	t.Helper()
	require.NoError(t, tryApply(t, c, text))
}

func tryApply(t *testing.T, c *cluster.Cluster, text string) error {
	t.Helper()
	var o unstructured.Unstructured
	require.NoError(t, yaml.Unmarshal([]byte(text), &o.Object))
	return c.Apply(&o)
}

// resources is where the objects of a kind are.
func resources(t *testing.T, c *cluster.Cluster, version, kind, namespace string) dynamic.ResourceInterface {
	t.Helper()
	client, err := dynamic.NewForConfig(c.Admin())
	require.NoError(t, err)
	group, err := schema.ParseGroupVersion(version)
	require.NoError(t, err)
	gvr := group.WithResource(map[string]string{
		"Pod": "pods", "NetworkPolicy": "networkpolicies", "ClusterNetworkPolicy": "clusternetworkpolicies",
	}[kind])
	if namespace == "" {
		return client.Resource(gvr)
	}
	return client.Resource(gvr).Namespace(namespace)
}

func patch(t *testing.T, c *cluster.Cluster, pod, text string, subresources ...string) {
	t.Helper()
	_, err := resources(t, c, "v1", "Pod", "default").Patch(t.Context(), pod, types.MergePatchType, []byte(text), metav1.PatchOptions{}, subresources...)
	require.NoError(t, err)
}

func remove(t *testing.T, c *cluster.Cluster, version, kind, namespace, name string) {
	t.Helper()
	require.NoError(t, resources(t, c, version, kind, namespace).Delete(t.Context(), name, metav1.DeleteOptions{}))
}
