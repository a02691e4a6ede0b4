package cluster

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// resource is where objects of the kind are.
func (c *Cluster) resource(o *unstructured.Unstructured) dynamic.ResourceInterface {
	c.t.Helper()
	return c.resourceOf(c.Admin(), o)
}

// resourceOf is resource for whomever the configuration is of.
func (c *Cluster) resourceOf(who *rest.Config, o *unstructured.Unstructured) dynamic.ResourceInterface {
	c.t.Helper()
	client, err := dynamic.NewForConfig(who)
	require.NoError(c.t, err)
	resource, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
	if namespace := o.GetNamespace(); namespace != "" {
		return client.Resource(resource).Namespace(namespace)
	}
	return client.Resource(resource)
}

// Apply makes the object, or makes it so, as kubectl apply does.
func (c *Cluster) Apply(o *unstructured.Unstructured) error {
	c.t.Helper()
	_, err := c.resource(o).Apply(c.t.Context(), o.GetName(), o, metav1.ApplyOptions{FieldManager: "test", Force: true})
	return err
}

// AddNode makes a Node as its kubelet and the controller manager do together: with these pod subnets.
func (c *Cluster) AddNode(name string, podCIDRs ...string) {
	c.t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: podCIDRs}}
	if len(podCIDRs) > 0 {
		n.Spec.PodCIDR = podCIDRs[0]
	}
	o := c.untyped(n, "v1", "Node")
	_, err := c.resource(o).Create(c.t.Context(), o, metav1.CreateOptions{})
	require.NoError(c.t, err)
}

// AddNodes makes many Nodes: each of the name, the pod subnets and the annotations that of says.
func (c *Cluster) AddNodes(count int, of func(int) (name string, podCIDRs []string, annotations map[string]string)) {
	c.t.Helper()
	group, ctx := errgroup.WithContext(c.t.Context())
	group.SetLimit(8)
	resource := c.resource(c.untyped(&corev1.Node{}, "v1", "Node"))
	for i := range count {
		name, podCIDRs, annotations := of(i)
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}, Spec: corev1.NodeSpec{PodCIDR: podCIDRs[0], PodCIDRs: podCIDRs}}
		o := c.untyped(n, "v1", "Node")
		group.Go(func() error {
			_, err := resource.Create(ctx, o, metav1.CreateOptions{})
			return err
		})
	}
	require.NoError(c.t, group.Wait())
}

// AddAccount makes a service account, which may do nothing, and returns its name.
func (c *Cluster) AddAccount(namespace, name string) string {
	c.t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	require.NoError(c.t, c.Apply(c.untyped(account, "v1", "ServiceAccount")))
	return name
}

// Node reads a Node.
func (c *Cluster) Node(name string) *corev1.Node {
	c.t.Helper()
	o := c.untyped(&corev1.Node{}, "v1", "Node")
	found, err := c.resource(o).Get(c.t.Context(), name, metav1.GetOptions{})
	require.NoError(c.t, err)
	var n corev1.Node
	require.NoError(c.t, runtime.DefaultUnstructuredConverter.FromUnstructured(found.Object, &n))
	return &n
}

// Nodes reads all Nodes.
func (c *Cluster) Nodes() []corev1.Node {
	c.t.Helper()
	found, err := c.resource(c.untyped(&corev1.Node{}, "v1", "Node")).List(c.t.Context(), metav1.ListOptions{})
	require.NoError(c.t, err)
	nodes := make([]corev1.Node, len(found.Items))
	for i, item := range found.Items {
		require.NoError(c.t, runtime.DefaultUnstructuredConverter.FromUnstructured(item.Object, &nodes[i]))
	}
	return nodes
}

// Pods reads the Pods that bear the label.
func (c *Cluster) Pods(namespace, label string) []corev1.Pod {
	c.t.Helper()
	o := c.untyped(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace}}, "v1", "Pod")
	found, err := c.resource(o).List(c.t.Context(), metav1.ListOptions{LabelSelector: label})
	require.NoError(c.t, err)
	pods := make([]corev1.Pod, len(found.Items))
	for i, item := range found.Items {
		require.NoError(c.t, runtime.DefaultUnstructuredConverter.FromUnstructured(item.Object, &pods[i]))
	}
	return pods
}

// PatchNode changes a Node as kubectl patch does, with a JSON merge patch.
func (c *Cluster) PatchNode(name, patch string, subresources ...string) {
	c.t.Helper()
	o := c.untyped(&corev1.Node{}, "v1", "Node")
	_, err := c.resource(o).Patch(c.t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, subresources...)
	require.NoError(c.t, err)
}

// Annotate changes annotations of a Node; a pair whose second is nil takes one away.
func (c *Cluster) Annotate(name string, annotations map[string]any) {
	c.t.Helper()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	require.NoError(c.t, err)
	c.PatchNode(name, string(patch))
}

// DeleteNode deletes a Node.
func (c *Cluster) DeleteNode(name string) {
	c.t.Helper()
	o := c.untyped(&corev1.Node{}, "v1", "Node")
	require.NoError(c.t, c.resource(o).Delete(c.t.Context(), name, metav1.DeleteOptions{}))
}

// DeleteNodes deletes all Nodes.
func (c *Cluster) DeleteNodes() {
	c.t.Helper()
	o := c.untyped(&corev1.Node{}, "v1", "Node")
	// Not the test's context: this is a part of tidying up.
	require.NoError(c.t, c.resource(o).DeleteCollection(context.Background(), metav1.DeleteOptions{}, metav1.ListOptions{}))
}

// Token is a token of a service account, which exists.
func (c *Cluster) Token(namespace, account string) string {
	c.t.Helper()
	o := c.untyped(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account}}, "v1", "ServiceAccount")
	request := c.untyped(&authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{Name: account}}, "authentication.k8s.io/v1", "TokenRequest")
	answer, err := c.resource(o).Create(c.t.Context(), request, metav1.CreateOptions{}, "token")
	require.NoError(c.t, err)
	token, found, err := unstructured.NestedString(answer.Object, "status", "token")
	require.NoError(c.t, err)
	require.True(c.t, found, fmt.Sprint(answer))
	return token
}

func (c *Cluster) untyped(o any, version, kind string) *unstructured.Unstructured {
	c.t.Helper()
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	require.NoError(c.t, err)
	u := &unstructured.Unstructured{Object: fields}
	u.SetAPIVersion(version)
	u.SetKind(kind)
	return u
}
