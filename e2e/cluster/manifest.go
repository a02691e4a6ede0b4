package cluster

import (
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// Manifest is what a file for kubectl apply has in it.
type Manifest struct {
	Objects   []*unstructured.Unstructured
	DaemonSet *appsv1.DaemonSet
	ConfigMap *corev1.ConfigMap
}

// ApplyManifest applies the file's objects, of which one is a DaemonSet, and returns them. When it does, the DaemonSet's account has the
// rights that the file gives it.
func (c *Cluster) ApplyManifest(path string) *Manifest {
	c.t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(c.t, err)
	m := &Manifest{Objects: c.ApplyText(string(text)), DaemonSet: &appsv1.DaemonSet{}, ConfigMap: &corev1.ConfigMap{}}
	for _, o := range m.Objects {
		switch o.GetKind() {
		case "DaemonSet":
			err = runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, m.DaemonSet)
		case "ConfigMap":
			err = runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, m.ConfigMap)
		}
		require.NoError(c.t, err)
	}
	require.NotEmpty(c.t, m.DaemonSet.Name, "%s has no DaemonSet", path)
	c.awaitRights(m)
	return m
}

// awaitRights waits until the DaemonSet's account may do what the manifest's roles say: the API server learns of rights by and by.
func (c *Cluster) awaitRights(m *Manifest) {
	c.t.Helper()
	account := c.As(c.Token(m.DaemonSet.Namespace, m.DaemonSet.Spec.Template.Spec.ServiceAccountName))
	for _, o := range m.Objects {
		if kind := o.GetKind(); kind != "Role" && kind != "ClusterRole" {
			continue
		}
		var role rbacv1.ClusterRole // a Role's rules are the same
		require.NoError(c.t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &role))
		last := role.Rules[len(role.Rules)-1]
		resource, part, _ := strings.Cut(last.Resources[0], "/")
		review := c.untyped(&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: o.GetNamespace(), Group: last.APIGroups[0], Resource: resource, Subresource: part, Verb: last.Verbs[0],
			},
		}}, "authorization.k8s.io/v1", "SelfSubjectAccessReview")
		for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			answer, err := c.resourceOf(account, review).Create(c.t.Context(), review, metav1.CreateOptions{})
			require.NoError(c.t, err)
			if allowed, _, _ := unstructured.NestedBool(answer.Object, "status", "allowed"); allowed {
				break
			}
			require.True(c.t, time.Now().Before(deadline), "what %s %s lets do is not allowed", o.GetKind(), o.GetName())
		}
	}
}

// ApplyText applies the objects of a file for kubectl apply. Those of kinds that this Kubernetes does not have any more are left out:
// PodSecurityPolicy, which a file from before 1.25 may have.
func (c *Cluster) ApplyText(text string) (objects []*unstructured.Unstructured) {
	c.t.Helper()
	for decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096); ; {
		o := &unstructured.Unstructured{}
		err := decoder.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return objects
		}
		require.NoError(c.t, err)
		if len(o.Object) == 0 {
			continue
		}
		objects = append(objects, o)
		err = c.Apply(o)
		if o.GetKind() == "PodSecurityPolicy" && apierrors.IsNotFound(err) {
			continue
		}
		require.NoError(c.t, err, "%s %s", o.GetKind(), o.GetName())
	}
}

// AddPod makes a Pod of the DaemonSet on the node, as its controller and the scheduler do together, and returns its name.
func (c *Cluster) AddPod(m *Manifest, node string) string {
	c.t.Helper()
	template := m.DaemonSet.Spec.Template.DeepCopy()
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Name, pod.Namespace = m.DaemonSet.Name+"-"+node, m.DaemonSet.Namespace
	pod.Spec.NodeName, pod.Spec.PriorityClassName = node, ""
	require.NoError(c.t, c.Apply(c.untyped(pod, "v1", "Pod")))
	return pod.Name
}
