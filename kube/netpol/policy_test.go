package netpol_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"pgregory.net/rapid"

	"github.com/podweft/podweft/kube/netpol"
	"github.com/podweft/podweft/policy"
)

func TestPolicy(t *testing.T) {
	clients := metav1.LabelSelector{MatchLabels: map[string]string{"role": "client"},
		MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "env", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"dev"}}}}
	got, err := netpol.Policy(&networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress, networkingv1.PolicyTypeIngress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{}, {
				From: []networkingv1.NetworkPolicyPeer{
					{PodSelector: &clients}, {NamespaceSelector: &metav1.LabelSelector{}}, {PodSelector: &metav1.LabelSelector{}, NamespaceSelector: &clients},
					{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8", Except: []string{"10.1.0.0/16"}}}},
				Ports: []networkingv1.NetworkPolicyPort{
					{}, {Protocol: new(corev1.ProtocolUDP)}, {Port: new(intstr.FromInt32(80))}, {Protocol: new(corev1.ProtocolSCTP), Port: new(intstr.FromString("sig"))},
					{Protocol: new(corev1.ProtocolTCP), Port: new(intstr.FromInt32(8000)), EndPort: new(int32(8010))}},
			}},
			Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "::/0"}}}}},
		},
	})
	require.NoError(t, err)
	wanted := policy.Selector{MatchLabels: map[string]string{"role": "client"},
		MatchExpressions: []policy.Requirement{{Key: "env", Operator: policy.NotIn, Values: []string{"dev"}}}}
	assert.Equal(t, policy.Policy{
		Namespace: "default", Name: "p", Pods: policy.Selector{MatchLabels: map[string]string{"app": "web"}},
		Types: []policy.Direction{policy.Egress, policy.Ingress},
		Ingress: []policy.Rule{{}, {
			Peers: []policy.Peer{{Pods: &wanted}, {Namespaces: &policy.Selector{}}, {Pods: &policy.Selector{}, Namespaces: &wanted},
				{Block: &policy.Block{CIDR: netip.MustParsePrefix("10.0.0.0/8"), Except: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}}},
			Ports: []policy.Port{{Protocol: policy.TCP}, {Protocol: policy.UDP}, {Protocol: policy.TCP, Number: 80}, {Protocol: policy.SCTP, Name: "sig"},
				{Protocol: policy.TCP, Number: 8000, End: 8010}},
		}},
		Egress: []policy.Rule{{Peers: []policy.Peer{{Block: &policy.Block{CIDR: netip.MustParsePrefix("::/0")}}}}},
	}, got)
	require.NoError(t, policy.Model{Policies: []policy.Policy{got}}.Validate())
}

func TestPod(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	port := func(name string, number int32, protocol corev1.Protocol) corev1.ContainerPort {
		return corev1.ContainerPort{Name: name, ContainerPort: number, Protocol: protocol}
	}
	got, err := netpol.Pod(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{NodeName: "node-1", HostNetwork: true,
			InitContainers: []corev1.Container{{Ports: []corev1.ContainerPort{port("init", 1, "")}},
				{RestartPolicy: &always, Ports: []corev1.ContainerPort{port("sidecar", 2, corev1.ProtocolTCP)}}},
			Containers: []corev1.Container{{Ports: []corev1.ContainerPort{port("http", 80, ""), port("", 81, "")}}, {Ports: []corev1.ContainerPort{port("dns", 53, corev1.ProtocolUDP)}}}},
		Status: corev1.PodStatus{PodIP: "10.0.0.1"},
	})
	require.NoError(t, err)
	assert.Equal(t, policy.Pod{Namespace: "default", Name: "web", Labels: map[string]string{"app": "web"}, Node: "node-1", HostNetwork: true,
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
		Ports: []policy.NamedPort{{Name: "http", Protocol: policy.TCP, Number: 80}, {Name: "dns", Protocol: policy.UDP, Number: 53},
			{Name: "sidecar", Protocol: policy.TCP, Number: 2}}}, got)

	_, err = netpol.Pod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{port("http", 0, ""), port("ping", 1, "ICMP")}}}}})
	require.EqualError(t, err, "pod default/web: spec.containers[0].ports[0].containerPort: 0 is not a port: use 1 to 65535\n"+
		`pod default/web: spec.containers[0].ports[1].protocol: "ICMP" is not a protocol: use TCP, UDP or SCTP`)
}

func TestPodPhase(t *testing.T) {
	now := metav1.Now()
	tests := []struct {
		name    string
		phase   corev1.PodPhase
		deleted *metav1.Time
		want    policy.Phase
	}{
		{"no status yet", "", nil, policy.Running},
		{"pending", corev1.PodPending, nil, policy.Running},
		{"running", corev1.PodRunning, nil, policy.Running},
		{"unknown", corev1.PodUnknown, nil, policy.Running},
		{"told to end", corev1.PodRunning, &now, policy.Terminating},
		{"succeeded", corev1.PodSucceeded, nil, policy.Finished},
		{"failed", corev1.PodFailed, nil, policy.Finished},
		{"told to end, and has", corev1.PodSucceeded, &now, policy.Finished},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := netpol.Pod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: tt.deleted}, Status: corev1.PodStatus{Phase: tt.phase}})
			require.NoError(t, err)
			assert.Equal(t, tt.want, got.Phase)
		})
	}
}

func TestNamespace(t *testing.T) {
	original := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"team": "x"}}}
	assert.Equal(t, policy.Namespace{Name: "a", Labels: map[string]string{"team": "x", "kubernetes.io/metadata.name": "a"}}, netpol.Namespace(original))
	assert.Len(t, original.Labels, 1, "the object is its owner's")
}

// TestSelectorsAreKubernetes: Kubernetes' own library and package policy agree on which selectors make sense and on what they
// match.
func TestSelectorsAreKubernetes(t *testing.T) {
	key := rapid.SampledFrom([]string{"a", "b", "example.com/a", "", "no key", "a/b/c", "-a", "a_.-A", "Example.com/a", strings.Repeat("k", 63), strings.Repeat("k", 64)})
	value := rapid.SampledFrom([]string{"x", "y", "", "x y", "-", "a_.-A", strings.Repeat("v", 63), strings.Repeat("v", 64)})
	goodKey, goodValue := rapid.SampledFrom([]string{"a", "b"}), rapid.SampledFrom([]string{"x", "y", ""})
	operator := rapid.SampledFrom([]string{"In", "NotIn", "Exists", "DoesNotExist"})
	rapid.Check(t, func(t *rapid.T) {
		keys, values := goodKey, goodValue
		if rapid.IntRange(0, 3).Draw(t, "odd") == 0 {
			keys, values = key, value
		}
		var s metav1.LabelSelector
		if pairs := rapid.MapOfN(keys, values, 0, 2).Draw(t, "labels"); len(pairs) > 0 {
			s.MatchLabels = pairs
		}
		for range rapid.IntRange(0, 3).Draw(t, "expressions") {
			r := metav1.LabelSelectorRequirement{Key: keys.Draw(t, "key"), Operator: metav1.LabelSelectorOperator(operator.Draw(t, "operator"))}
			if r.Operator == "In" || r.Operator == "NotIn" || rapid.IntRange(0, 9).Draw(t, "with values") == 0 {
				r.Values = rapid.SliceOfN(values, 0, 3).Draw(t, "values")
			}
			s.MatchExpressions = append(s.MatchExpressions, r)
		}
		p, err := netpol.Policy(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: networkingv1.NetworkPolicySpec{PodSelector: s}})
		if err != nil {
			t.Fatal(err)
		}
		theirs := len(metavalidation.ValidateLabelSelector(&s, metavalidation.LabelSelectorValidationOptions{}, nil)) == 0
		if ours := (policy.Model{Policies: []policy.Policy{p}}).Validate(); theirs != (ours == nil) {
			t.Fatalf("%+v: Kubernetes accepts it: %t, we say: %v", s, theirs, ours)
		}
		if !theirs {
			return
		}
		k8s, err := metav1.LabelSelectorAsSelector(&s)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			of := rapid.MapOfN(goodKey, goodValue, 0, 2).Draw(t, "object")
			if got, want := p.Pods.Matches(of), k8s.Matches(labels.Set(of)); got != want {
				t.Fatalf("%s matches %v: got %t, want %t", p.Pods, of, got, want)
			}
		}
	})
}

func TestPortNamesAreKubernetes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-zA0-9_-]{0,17}`).Draw(t, "name")
		err := policy.Model{Pods: []policy.Pod{{Namespace: "a", Name: "a", Ports: []policy.NamedPort{{Name: name, Number: 1}}}}}.Validate()
		if theirs := len(validation.IsValidPortName(name)) == 0; theirs != (err == nil) {
			t.Fatalf("%q: Kubernetes accepts it: %t, we say: %v", name, theirs, err)
		}
	})
}
