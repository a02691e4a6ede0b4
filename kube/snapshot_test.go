package kube_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/kube"
	"github.com/podweft/podweft/subnet"
)

func TestSnapshot(t *testing.T) {
	network, err := subnet.ParseNetwork([]byte(`{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48"}`))
	require.NoError(t, err)
	one := node("node-1", map[string]string{"backend-type": "vxlan", "backend-data": vtep4, "public-ip": "192.0.2.1"}, "10.244.1.0/24")
	two := node("node-2", map[string]string{"backend-type": "vxlan", "backend-data": "{", "public-ip": "x", "public-ipv6": "2001:db8::2"}, "10.244.2.0/24")
	three := node("node-3", map[string]string{"public-ip": "192.0.2.3"})
	windows := node("node-4", nil, "10.244.4.0/24")
	delete(windows.Annotations, prefix+"kube-subnet-manager")
	one.ResourceVersion, two.ResourceVersion = "17", "23"

	nodes := []*corev1.Node{three, two, windows, one}
	s := kube.Annotations{}.Snapshot(slices.Values(nodes), network, 40)
	assert.EqualValues(t, 40, s.Revision)
	assert.Same(t, network, s.Network)
	var leases []string
	for _, l := range s.Leases {
		leases = append(leases, l.String())
	}
	assert.Equal(t, []string{"10.244.1.0/24 of node-1 via 192.0.2.1", "10.244.2.0/24 of node-2 via 2001:db8::2"}, leases)
	assert.EqualValues(t, 17, s.Lease("node-1").Revision)
	var problems []string
	for _, p := range s.Problems {
		assert.Equal(t, p.Node, p.Key)
		assert.ErrorIs(t, p, podweft.ErrInvalid)
		var field *podweft.FieldError
		require.ErrorAs(t, p, &field)
		problems = append(problems, p.Node+" "+field.Field)
	}
	assert.Equal(t, []string{"node-2 " + prefix + "public-ip", "node-2 " + prefix + "backend-data", "node-3 spec.podCIDRs"}, problems)

	slices.Reverse(nodes)
	assert.Equal(t, s, kube.Annotations{}.Snapshot(slices.Values(nodes), network, 40), "the order of the nodes does not matter")

	peers, problem := s.Peers("node-1")
	require.Len(t, peers, 1)
	assert.Same(t, s.Lease("node-2"), peers[0])
	assert.Empty(t, problem)

	empty := kube.Annotations{Prefix: "example.com"}.Snapshot(slices.Values(nodes), network, 41)
	assert.Equal(t, &subnet.Snapshot{Revision: 41, Network: network}, empty, "another network's nodes are nobody's problem")
}

// TestSnapshotOfOneFamily: a node that changes one family alone is seen to change, which flannel's informer misses.
func TestSnapshotOfOneFamily(t *testing.T) {
	n := node("node-2", map[string]string{
		"backend-type": "vxlan", "backend-data": vtep4, "public-ip": "192.0.2.2", "backend-v6-data": vtep6, "public-ipv6": "2001:db8::2",
	}, "10.244.2.0/24", "fd00:244:0:2::/64")
	read := func() subnet.Lease {
		s := kube.Annotations{}.Snapshot(slices.Values([]*corev1.Node{n}), nil, 1)
		require.Empty(t, s.Problems)
		return *s.Lease("node-2")
	}
	want := read()
	for name, text := range map[string]string{"public-ip": "192.0.2.22", "backend-v6-data": vtep4} {
		n.Annotations[prefix+name] = text
	}
	want.Underlay, want.Data = addrs("192.0.2.22", "2001:db8::2"), data(vtep4, vtep4)
	assert.Equal(t, want, read())
}
