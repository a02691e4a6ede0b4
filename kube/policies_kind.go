package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/podweft/podweft/kube/netpol"
	"github.com/podweft/podweft/policy"
)

// kind is one of the sorts of objects that policies are made of.
type kind struct {
	resource string
	client   rest.Interface
	optional bool // a cluster may not have it
	page     func() runtime.Object
	// model is what a [policy.Model] has of an object: a policy.Pod, say. It is nil where nobody can tell.
	model func(runtime.Object) (policy.ID, modelled, error)
}

// modelled is an object of a [policy.Model].
type modelled interface{ ID() policy.ID }

func kinds(cfg *rest.Config, web *http.Client) ([]*kind, error) {
	core, err := clientOf(cfg, web, corev1.SchemeGroupVersion, corev1.AddToScheme)
	if err != nil {
		return nil, err
	}
	networking, err := clientOf(cfg, web, networkingv1.SchemeGroupVersion, networkingv1.AddToScheme)
	if err != nil {
		return nil, err
	}
	cluster, err := clientOf(cfg, web, clusterPolicies, addClusterPolicies)
	if err != nil {
		return nil, err
	}
	return []*kind{
		{
			resource: "nodes", client: core, page: func() runtime.Object { return &corev1.NodeList{} },
			model: modelOf(netpol.Node),
		},
		{
			resource: "namespaces", client: core, page: func() runtime.Object { return &corev1.NamespaceList{} },
			model: modelOf(func(n *corev1.Namespace) (policy.Namespace, error) { return netpol.Namespace(n), nil }),
		},
		{
			resource: "pods", client: core, page: func() runtime.Object { return &corev1.PodList{} },
			model: modelOf(netpol.Pod),
		},
		{
			resource: "networkpolicies", client: networking, page: func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
			model: modelOf(netpol.Policy),
		},
		{
			resource: "clusternetworkpolicies", client: cluster, page: func() runtime.Object { return &clusterPolicyList{} }, optional: true,
			model: func(o runtime.Object) (policy.ID, modelled, error) {
				c, ok := o.(*clusterPolicy)
				if !ok {
					return policy.ID{}, nil, unexpected(o)
				}
				p, ok, err := netpol.ClusterPolicy(c.raw)
				if !ok {
					return policy.ClusterPolicy{Name: c.Name}.ID(), nil, errors.Join(fmt.Errorf("%s is not in force", policy.ClusterPolicy{Name: c.Name}.ID()), err)
				}
				return p.ID(), p, err
			},
		},
	}, nil
}

// modelOf makes one of netpol's functions take any object.
func modelOf[O runtime.Object, M modelled](of func(O) (M, error)) func(runtime.Object) (policy.ID, modelled, error) {
	return func(o runtime.Object) (policy.ID, modelled, error) {
		typed, ok := o.(O)
		if !ok {
			return policy.ID{}, nil, unexpected(o)
		}
		m, err := of(typed)
		return m.ID(), m, err
	}
}

func unexpected(o runtime.Object) error {
	return fmt.Errorf("the API server sent a %T, which was not asked for", o)
}

// clusterPolicies is the group and version of ClusterNetworkPolicies. Their module, sigs.k8s.io/network-policy-api, would bring a newer
// k8s.io/api than we ask for, so that netpol reads their JSON.
var clusterPolicies = schema.GroupVersion{Group: "policy.networking.k8s.io", Version: "v1alpha2"}

func addClusterPolicies(scheme *runtime.Scheme) error {
	scheme.AddKnownTypeWithName(clusterPolicies.WithKind("ClusterNetworkPolicy"), &clusterPolicy{})
	scheme.AddKnownTypeWithName(clusterPolicies.WithKind("ClusterNetworkPolicyList"), &clusterPolicyList{})
	metav1.AddToGroupVersion(scheme, clusterPolicies)
	return nil
}

// clusterPolicy is a ClusterNetworkPolicy as it came.
type clusterPolicy struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	raw []byte
}

// UnmarshalJSON implements json.Unmarshaler.
func (c *clusterPolicy) UnmarshalJSON(b []byte) error {
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        metav1.ObjectMeta `json:"metadata"`
	}
	err := json.Unmarshal(b, &head)
	c.TypeMeta, c.ObjectMeta, c.raw = head.TypeMeta, head.Metadata, bytes.Clone(b)
	return err
}

// DeepCopyObject implements runtime.Object.
func (c *clusterPolicy) DeepCopyObject() runtime.Object {
	return &clusterPolicy{TypeMeta: c.TypeMeta, ObjectMeta: *c.ObjectMeta.DeepCopy(), raw: bytes.Clone(c.raw)}
}

// clusterPolicyList is a page of them.
type clusterPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []clusterPolicy `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (l *clusterPolicyList) DeepCopyObject() runtime.Object {
	out := &clusterPolicyList{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy(), Items: slices.Clone(l.Items)}
	for i := range out.Items {
		out.Items[i] = *l.Items[i].DeepCopyObject().(*clusterPolicy)
	}
	return out
}
