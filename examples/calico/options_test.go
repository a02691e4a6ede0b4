package calico_test

import (
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/examples/calico"
	"github.com/podweft/podweft/policy"
)

// TestEnvironment: calico/node's, flags over it, and objects.
func TestEnvironment(t *testing.T) {
	objects := filepath.Join(t.TempDir(), "calico.yaml")
	require.NoError(t, os.WriteFile(objects, []byte(`
kind: List
items:
- kind: IPPool
  metadata: {name: gpus}
  spec: {cidr: 10.9.0.0/16, blockSize: 28, ipipMode: CrossSubnet, natOutgoing: true, nodeSelector: has(gpu), namespaceSelector: team == 'red'}
---
kind: BGPConfiguration
metadata: {name: default}
spec: {asNumber: 65001, listenPort: 1179, serviceClusterIPs: [{cidr: 10.96.0.0/12}], nodeToNodeMeshEnabled: false, communities: [{name: pods, value: "65001:7"}], prefixAdvertisements: [{cidr: 10.244.0.0/16, communities: [pods, "65001:8"]}]}
---
kind: BGPConfiguration
metadata: {name: node.node-9}
spec: {asNumber: 65009}
---
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: "192.0.2.254:1179", asNumber: 65000, keepOriginalNextHop: true}
---
kind: BGPPeer
metadata: {name: elsewhere}
spec: {node: node-9, peerIP: 192.0.2.253, asNumber: 65000}
---
kind: FelixConfiguration
metadata: {name: default}
`), 0o600))
	env := map[string]string{
		"NODENAME": "node-1", "NODE_LABELS": "gpu=yes", "CALICO_IPV4POOL_CIDR": "10.244.0.0/16", "CALICO_IPV4POOL_VXLAN": "CrossSubnet",
		"CALICO_IPV4POOL_BLOCK_SIZE": "24", "CALICO_IPV6POOL_CIDR": "fd00:244::/64", "FELIX_VXLANVNI": "77", "CALICO_STORE_DIR": t.TempDir(),
		"IP": "192.0.2.1/24", "CALICO_ROUTER_ID": "10.0.0.1",
	}
	o, words, err := calico.ParseOptions([]string{"ipam", "--ipv4-pool-vxlan=Always", "show", "--policies=" + t.TempDir(), "--config", objects}, func(name string) string { return env[name] }, io.Discard)
	require.NoError(t, err)
	assert.Equal(t, []string{"ipam", "show"}, words)
	c := o.Config
	assert.Equal(t, []calico.Pool{
		{Name: "default-ipv4-ippool", Prefix: netip.MustParsePrefix("10.244.0.0/16"), BlockBits: 24, VXLAN: calico.Always, IPIP: calico.Never, NAT: true},
		{Name: "default-ipv6-ippool", Prefix: netip.MustParsePrefix("fd00:244::/64"), BlockBits: 122, VXLAN: calico.Never, IPIP: calico.Never},
		{Name: "gpus", Prefix: netip.MustParsePrefix("10.9.0.0/16"), BlockBits: 28, VXLAN: calico.Never, IPIP: calico.CrossSubnet, NAT: true, Nodes: policy.Selector{
			MatchExpressions: []policy.Requirement{{Key: "gpu", Operator: policy.Exists}},
		}, Namespaces: policy.Selector{
			MatchExpressions: []policy.Requirement{{Key: "team", Operator: policy.In, Values: []string{"red"}}},
		}},
	}, c.Pools)
	assert.Equal(t, uint32(65001), c.BGP.AS)
	assert.Equal(t, 1179, c.BGP.Port)
	assert.Equal(t, calico.NoMesh, c.BGP.Mesh)
	assert.Equal(t, []calico.Peer{{FromNode: true, Peer: bgp.Peer{
		Name: "tor", Addr: netip.MustParseAddr("192.0.2.254"), AS: 65000, Port: 1179, Transit: bgp.NextHopKept,
	}}}, c.BGP.Peers)
	assert.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}, c.BGP.Services)
	assert.Equal(t, []calico.Communities{{Within: netip.MustParsePrefix("10.244.0.0/16"), Values: []bgp.Community{65001<<16 | 7, 65001<<16 | 8}}}, c.BGP.Communities)
	assert.Equal(t, "192.0.2.1", c.Underlay.Name)
	assert.Equal(t, uint32(77), c.VNI)
	assert.NoError(t, c.Validate())
	c.Policies = nil
	assert.ErrorContains(t, c.Validate(), "Pools[2].Namespaces: cannot be told apart: give Policies")
}

// given are the options of node-1 with these objects.
func given(t *testing.T, objects string, flags ...string) (*calico.Options, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "calico.yaml")
	require.NoError(t, os.WriteFile(name, []byte(objects), 0o600))
	o, _, err := calico.ParseOptions(append(flags,
		"--node-name=node-1", "--ipv4-pool-cidr=10.244.0.0/16", "--store-dir="+t.TempDir(), "--config="+name,
	), func(string) string { return "" }, io.Discard)
	return o, err
}

// TestObjectsInAnyOrder: what is said of a node goes before what is said of all, wherever it stands; Services are those of both, once;
// peers have the filters that they name.
func TestObjectsInAnyOrder(t *testing.T) {
	objects := []string{`
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 192.0.2.254, asNumber: 65000, filters: [pods, six]}
`, `
kind: BGPConfiguration
metadata: {name: node.node-1}
spec:
  asNumber: 65009
  nodeToNodeMeshEnabled: true
  serviceClusterIPs: [{cidr: 10.96.0.0/12}, {cidr: 10.98.1.0/24}]
  prefixAdvertisements: [{cidr: 10.96.0.0/12, communities: ["65009:1"]}]
`, `
kind: BGPConfiguration
metadata: {name: default}
spec:
  asNumber: 65001
  listenPort: 1179
  nodeToNodeMeshEnabled: false
  serviceClusterIPs: [{cidr: 10.96.0.0/12}]
  serviceExternalIPs: [{cidr: 10.96.0.0/12}]
  communities: [{name: unused, value: "65001:2:3"}, {name: x, value: "65001:7"}]
  prefixAdvertisements: [{cidr: 10.244.0.0/16, communities: [x]}]
`, `
kind: BGPFilter
metadata: {name: six}
spec: {importV6: [{action: Reject}]}
`, `
kind: BGPFilter
metadata: {name: pods}
spec:
  importV4: [{action: Reject, matchOperator: NotIn, cidr: 10.244.0.0/16}]
  exportV4: [{action: Reject, matchOperator: In, cidr: 10.96.0.0/12}]
  importV6: [{action: Accept, matchOperator: In, cidr: "fd00::/64"}]
`}
	within := func(text string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(text)} }
	for _, reversed := range []bool{false, true} {
		if reversed {
			slices.Reverse(objects)
		}
		o, err := given(t, strings.Join(objects, "---"))
		require.NoError(t, err)
		b := o.Config.BGP
		assert.Equal(t, uint32(65009), b.AS)
		assert.Equal(t, 1179, b.Port)
		assert.Equal(t, calico.FullMesh, b.Mesh)
		assert.ElementsMatch(t, append(within("10.96.0.0/12"), within("10.98.1.0/24")...), b.Services)
		assert.Equal(t, []calico.Communities{{Within: within("10.96.0.0/12")[0], Values: []bgp.Community{65009<<16 | 1}}}, b.Communities)
		assert.Equal(t, []calico.Peer{{FromNode: true, Peer: bgp.Peer{
			Name: "tor", Addr: netip.MustParseAddr("192.0.2.254"), AS: 65000,
			Import: bgp.Filter{
				{Within: within("10.244.0.0/16"), Outside: true, Reject: true},
				{Within: within("fd00::/64")}, {Within: within("::/0"), Reject: true},
			},
			Export: bgp.Filter{{Within: within("10.96.0.0/12"), Reject: true}},
		}}}, b.Peers)
		assert.NoError(t, o.Config.Validate())
	}
}

// TestNode: what Calico's object says of this node goes before what is said of all, and a flag before it; what Calico notes there, other
// nodes' and Kubernetes' Nodes are passed over.
func TestNode(t *testing.T) {
	const objects = `{kind: BGPPeer, metadata: {name: reflectors}, spec: {peerSelector: reflector == 'true', nodeSelector: all()}}
---
{kind: BGPConfiguration, metadata: {name: node.node-1}, spec: {asNumber: 65001}}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: node-1, labels: {reflector: "true"}, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  addresses: [{address: 192.0.2.1/24, type: CalicoNodeIP}]
  bgp: {asNumber: "1.1", ipv4Address: 192.0.2.1/24, ipv4IPIPTunnelAddr: 10.244.7.0, routeReflectorClusterID: 244.0.0.1}
  ipv4VXLANTunnelAddr: 10.244.7.1
  vxlanTunnelMACAddr: 66:a5:9b:f8:31:0f
  orchRefs: [{nodeName: node-1, orchestrator: k8s}]
  wireguard: {interfaceIPv4Address: 10.244.7.2}
---
{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: node-2}, spec: {bgp: {asNumber: 65002, routeReflectorClusterID: 244.0.0.2}}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-1, labels: {reflector: "false"}}, spec: {podCIDR: 10.244.0.0/24}}
`
	o, err := given(t, objects)
	require.NoError(t, err)
	assert.Equal(t, uint32(1<<16|1), o.Config.BGP.AS)
	assert.Equal(t, netip.MustParseAddr("244.0.0.1"), o.Config.BGP.ClusterID)
	assert.Equal(t, map[string]string{"reflector": "true"}, o.Config.Labels)
	assert.Len(t, o.Config.BGP.Peers, 2, "it has the peer, and is one")
	require.NoError(t, o.Config.Validate())

	o, err = given(t, objects, "--as=64999", "--cluster-id=244.0.0.9", "--node-labels=rack=a")
	require.NoError(t, err)
	assert.Equal(t, uint32(64999), o.Config.BGP.AS)
	assert.Equal(t, netip.MustParseAddr("244.0.0.9"), o.Config.BGP.ClusterID)
	assert.Equal(t, map[string]string{"rack": "a"}, o.Config.Labels)
	assert.Len(t, o.Config.BGP.Peers, 1)
}

// TestObjectsSayWhatIsWrong: a peer that should have been filtered, or a prefix that should have been marked, is not told of at all.
func TestObjectsSayWhatIsWrong(t *testing.T) {
	const peer = "---\n{kind: BGPPeer, metadata: {name: tor}, spec: {peerIP: 192.0.2.254, filters: [some]}}"
	for name, tt := range map[string]struct{ objects, want string }{
		"no filter": {peer, `document 1: BGPPeer tor: spec.filters[0]: "some" is no BGPFilter that we know of: give it in a file of --config`},
		"condition": {
			`{kind: BGPFilter, metadata: {name: some}, spec: {exportV4: [{action: Accept}, {action: Reject, interface: "*.calico"}]}}` + "\n" + peer,
			"document 2: BGPPeer tor: BGPFilter some: spec.exportV4[1].interface: is a field that we do not know: leave the rule out, or say it by cidr",
		},
		"list": {
			`{kind: BGPFilter, metadata: {name: some}, spec: {exportV5: [{action: Reject}]}}` + "\n" + peer,
			"document 2: BGPPeer tor: BGPFilter some: spec.exportV5: is a field that we do not know",
		},
		"community": {
			`{kind: BGPConfiguration, metadata: {name: default}, spec: {prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: [pods]}]}}`,
			`document 1: BGPConfiguration default: spec.prefixAdvertisements[0].communities[0]: "pods" names no community that we can tell of`,
		},
		"large community": {
			`{kind: BGPConfiguration, metadata: {name: default}, spec: {communities: [{name: large, value: "1:2:3"}], prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: [large]}]}}`,
			`spec.prefixAdvertisements[0].communities[0]: "large" names no community that we can tell of: write two numbers below 65536`,
		},
		"marked": {
			`{kind: BGPConfiguration, metadata: {name: default}, spec: {prefixAdvertisements: [{cidr: 10.0.0.0}]}}`,
			`spec.prefixAdvertisements[0].cidr: "10.0.0.0" is not a network`,
		},
		"field of a peer": {
			`{kind: BGPPeer, metadata: {name: tor}, spec: {peerIP: 192.0.2.254, localWorkloadSelector: all(), asNumber: 1, reachableBy: 192.0.2.1, maxRestartTime: 90s}}`,
			"BGPPeer tor: spec.localWorkloadSelector: is a field that we do not know: leave it out\n" +
				"spec.maxRestartTime: 90s is not what we can do: give all sessions theirs with --bgp-restart-time\n" +
				"spec.reachableBy: 192.0.2.1 is not what we can do: give the host a route to the peer",
		},
		"field of a configuration": {
			`{kind: BGPConfiguration, metadata: {name: default}, spec: {communities: [{name: a, value: "1:2", large: true}], serviceLoadBalancerAggregation: Disabled}}`,
			"BGPConfiguration default: spec.communities[0].large: is a field that we do not know: leave it out\nspec.serviceLoadBalancerAggregation: Disabled is not what we can do",
		},
		"field of a pool": {
			`{kind: IPPool, metadata: {name: p}, spec: {cidr: 10.0.0.0/8, allowedUses: [LoadBalancer], assignmentMode: Manual, disableBGPExport: true}}`,
			"IPPool p: spec.allowedUses: [LoadBalancer] is not what we can do: leave the pool out\n" +
				"spec.assignmentMode: Manual is not what we can do: disable the pool\n" +
				"spec.disableBGPExport: true is not what we can do: give the peer a BGPFilter that rejects the pool",
		},
		"policy":      {`{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: deny}, spec: {}}`, "GlobalNetworkPolicy deny: kind: GlobalNetworkPolicy is not what we can do: give Kubernetes' NetworkPolicies"},
		"reservation": {`{kind: IPReservation, metadata: {name: mine}, spec: {reservedCIDRs: [10.244.0.7]}}`, "IPReservation mine: kind: IPReservation is not what we can do: leave the addresses out of all pools"},
		"secret":      {`{kind: BGPPeer, metadata: {name: tor}, spec: {peerIP: 192.0.2.254, password: {secretKeyRef: {name: s, key: k}}}}`, "BGPPeer tor: spec.password: is in a Secret, which we do not read: write the password itself"},
		"AS":          {`{kind: BGPPeer, metadata: {name: tor}, spec: {peerIP: 192.0.2.254, asNumber: "1.65536"}}`, "BGPPeer tor: spec.asNumber: 1.65536 is no AS number: write one like 64512"},
		"AS in YAML":  {`{kind: BGPPeer, metadata: {name: tor}, spec: {peerIP: 192.0.2.254, localASNumber: 1.10}}`, "BGPPeer tor: spec.localASNumber: 1.1 is read as a fraction, in which 1.10 is 1.1: write it in quotes"},
		"AS quoted":   {`{kind: BGPPeer, metadata: {name: tor}, spec: {peerIP: 192.0.2.254, asNumber: '"64512"'}}`, `BGPPeer tor: spec.asNumber: "64512" is no AS number: write one like 64512`},
		"two":         {`{kind: BGPConfiguration, metadata: {name: default}, spec: {asNumber: 1.5, listenport: many}}`, "BGPConfiguration default: spec.asNumber: 1.5 is read as a fraction"},
		"policy's":    {`{apiVersion: crd.projectcalico.org/v1, kind: NetworkPolicy, metadata: {name: deny}, spec: {}}`, "NetworkPolicy deny: kind: NetworkPolicy is not what we can do"},
		"source":      {`{kind: BGPPeer, metadata: {name: tor}, spec: {peerIP: 192.0.2.254, sourceAddress: eth0}}`, `spec.sourceAddress: "eth0" is no choice of an address: write UseNodeIP or None`},
		"next hop":    {`{kind: BGPPeer, metadata: {name: tor}, spec: {peerIP: 192.0.2.254, nextHopMode: Mine}}`, `spec.nextHopMode: "Mine" is no mode: write Auto, Keep or Self`},
		"reverse":     {`{kind: BGPPeer, metadata: {name: tor}, spec: {peerIP: 192.0.2.254, reversePeering: "No"}}`, `spec.reversePeering: "No" is no choice: write Auto or Manual`},
		"nodes at":    {`{kind: BGPPeer, metadata: {name: tor}, spec: {peerIP: 192.0.2.254, peerSelector: all()}}`, `spec.peerSelector: "all()" goes without peerIP, asNumber and localASNumber, which are the nodes': leave those out`},
		"nodes' AS":   {`{kind: BGPPeer, metadata: {name: tor}, spec: {localASNumber: 64999, peerSelector: all()}}`, `spec.peerSelector: "all()" goes without peerIP, asNumber and localASNumber, which are the nodes': leave those out`},
		"nodes from":  {`{kind: BGPPeer, metadata: {name: tor}, spec: {sourceAddress: None, peerSelector: all()}}`, `spec.sourceAddress: "None" goes without peerSelector: nodes know each other by their addresses: leave it out`},
		"bind":        {`{kind: BGPConfiguration, metadata: {name: default}, spec: {bindMode: eth0}}`, `spec.bindMode: "eth0" is no mode: write None or NodeIP`},
		"peer's node": {`{kind: BGPPeer, metadata: {name: tor}, spec: {peerSelector: "a || b"}}`, `selector: "a || b" has a condition that is not understood`},
		"reflector": {
			`{kind: Node, metadata: {name: node-1}, spec: {bgp: {routeReflectorClusterID: "2001:db8::1", asNumber: 1.5}}}`,
			`Node node-1: spec.bgp.asNumber: 1.5 is read as a fraction`,
		},
		"cluster ID": {
			`{kind: Node, metadata: {name: node-1}, spec: {bgp: {routeReflectorClusterID: "2001:db8::1"}}}`,
			`Node node-1: spec.bgp.routeReflectorClusterID: "2001:db8::1" is no cluster ID: write one like 244.0.0.1`,
		},
		"nobody's": {`{kind: BGPConfiguration, metadata: {name: node-1}, spec: {asNumber: 1}}`, `BGPConfiguration node-1: metadata.name: "node-1" is that of no node: write default, or node.NODE`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := given(t, tt.objects)
			require.ErrorIs(t, err, podweft.ErrInvalid)
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestOptionsSayWhatIsWrong(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"no store":      {nil, "--etcd-endpoints: are missing"},
		"mode":          {[]string{"--ipv4-pool-cidr=10.0.0.0/8", "--ipv4-pool-ipip=Sometimes"}, `--ipv4-pool-ipip: "Sometimes" is no mode`},
		"family":        {[]string{"--ipv6-pool-cidr=10.0.0.0/8"}, `--ipv6-pool-cidr: "10.0.0.0/8" is of the other family`},
		"detection":     {[]string{"--ip-autodetection=guess"}, `--ip-autodetection: "guess" is no method of ours`},
		"number":        {[]string{"--vxlan-port=70000"}, `--vxlan-port: "70000" is not a number that it can be`},
		"datastore":     {[]string{"--datastore=paper"}, `--datastore: "paper" is no store`},
		"no cluster":    {[]string{"--datastore=kubernetes"}, "neither --kubeconfig nor --kube-api-url says where one is"},
		"missing files": {[]string{"--config=/nowhere"}, "--config: open /nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := calico.ParseOptions(tt.args, func(string) string { return "" }, io.Discard)
			require.ErrorContains(t, err, tt.want)
		})
	}
}

// TestBGPSaysWhatIsWrong: before anybody speaks.
func TestBGPSaysWhatIsWrong(t *testing.T) {
	err := calico.Config{BGP: calico.BGP{
		Peers: []calico.Peer{{Peer: bgp.Peer{Addr: netip.MustParseAddr("192.0.2.1"), Port: 70000}}}, ClusterID: netip.MustParseAddr("::1"),
		Services:    []netip.Prefix{netip.MustParsePrefix("10.96.0.1/12")},
		Communities: []calico.Communities{{Within: netip.MustParsePrefix("10.96.0.1/12")}},
	}}.Validate()
	require.ErrorIs(t, err, podweft.ErrInvalid)
	require.ErrorContains(t, err, "ClusterID")
	require.ErrorContains(t, err, "BGP.Communities[0].Within")
	err = calico.Config{BGP: calico.BGP{
		Peers: []calico.Peer{{Peer: bgp.Peer{Addr: netip.MustParseAddr("192.0.2.1"), Port: 70000}}}, Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.1/12")},
	}}.Validate()
	require.ErrorContains(t, err, "Peers[0].Port")
	require.ErrorContains(t, err, "Advertisements[0].Prefix")
}

// TestPeersSayWhatIsWrong: those that are nodes too.
func TestPeersSayWhatIsWrong(t *testing.T) {
	err := calico.Config{BGP: calico.BGP{Peers: []calico.Peer{
		{Peer: bgp.Peer{Addr: netip.MustParseAddr("192.0.2.1"), Transit: bgp.NextHopSelf}}, {Nodes: &calico.NodeChoice{}, Peer: bgp.Peer{TTLSecurity: 256}},
		{Nodes: &calico.NodeChoice{}}, {Peer: bgp.Peer{Addr: netip.MustParseAddr("192.0.2.2"), AS: 1, Transit: bgp.NextHopSelf}},
		{Nodes: &calico.NodeChoice{}, Peer: bgp.Peer{Transit: bgp.NextHopSelf}}, // whose AS may be another
		{Nodes: &calico.NodeChoice{}, Peer: bgp.Peer{LocalAS: 64999}},
	}}}.Validate()
	require.ErrorContains(t, err, "Peers[0].Transit: self is not for peers of our own AS")
	require.ErrorContains(t, err, "Peers[1].TTLSecurity: 256 is not a number of hops")
	require.NotContains(t, err.Error(), "Peers[2]")
	require.NotContains(t, err.Error(), "Peers[3]")
	require.NotContains(t, err.Error(), "Peers[4]")
	require.ErrorContains(t, err, "Peers[5].LocalAS: 64999 goes without Nodes, who know this one by BGP.AS: leave it out")
}

// TestPeerObjects: what a BGPPeer says of its session.
func TestPeerObjects(t *testing.T) {
	o, err := given(t, `
kind: BGPConfiguration
metadata: {name: default}
spec: {asNumber: "1.10", nodeMeshPassword: woven, bindMode: NodeIP, ignoredInterfaces: [docker0], logSeverityScreen: Info, serviceLoadBalancerAggregation: Enabled}
---
kind: BGPPeer
metadata: {name: one}
spec: {peerIP: 192.0.2.254, asNumber: "64600", localASNumber: 64999, sourceAddress: None, ttlSecurity: 2, nextHopMode: Self, numAllowedLocalASNumbers: 1}
---
kind: BGPPeer
metadata: {name: two}
spec: {peerIP: 192.0.2.253, asNumber: 64600, sourceAddress: UseNodeIP, nextHopMode: Auto, keepOriginalNextHop: true}
---
kind: IPPool
metadata: {name: usual}
spec: {cidr: 10.9.0.0/16, allowedUses: [Workload, Tunnel], assignmentMode: Automatic, disableBGPExport: false, vxlanMode: Never}
`)
	require.NoError(t, err)
	require.NoError(t, o.Config.Validate())
	b := o.Config.BGP
	assert.Equal(t, uint32(1<<16|10), b.AS)
	assert.Equal(t, "woven", b.Password)
	assert.True(t, b.Bound)
	assert.Equal(t, []calico.Peer{
		{Peer: bgp.Peer{
			Name: "one", Addr: netip.MustParseAddr("192.0.2.254"), AS: 64600, LocalAS: 64999, TTLSecurity: 2, Transit: bgp.NextHopSelf, AllowOwnAS: 1,
		}},
		{FromNode: true, Peer: bgp.Peer{Name: "two", Addr: netip.MustParseAddr("192.0.2.253"), AS: 64600, Transit: bgp.NextHopKept}},
	}, b.Peers)
}

// TestKubernetesPolicy: kinds of Calico's names that are others' are passed over.
func TestKubernetesPolicy(t *testing.T) {
	for _, object := range []string{
		"{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny}, spec: {podSelector: {}}}",
		"{apiVersion: v1, kind: List, items: [{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny}}]}",
	} {
		_, err := given(t, object)
		require.NoError(t, err, object)
	}
}

// TestMeshPassword: that of the node goes before that of all, and a flag before both.
func TestMeshPassword(t *testing.T) {
	const all, own = "{kind: BGPConfiguration, metadata: {name: default}, spec: {nodeMeshPassword: of all}}\n",
		"{kind: BGPConfiguration, metadata: {name: node.node-1}, spec: {nodeMeshPassword: its own}}\n"
	for _, tt := range []struct{ objects, flag, want string }{
		{all, "", "of all"}, {own + "---\n" + all, "", "its own"}, {all + "---\n" + own, "", "its own"}, {all + "---\n" + own, "the flag's", "the flag's"},
	} {
		o, err := given(t, tt.objects, "--bgp-password="+tt.flag)
		require.NoError(t, err)
		assert.Equal(t, tt.want, o.Config.BGP.Password, "%+v", tt)
	}
}

// TestRouterSaysWhatIsWrong: the router's command line too.
func TestRouterSaysWhatIsWrong(t *testing.T) {
	for _, arg := range []string{"--peer=192.0.2.1,64512x", "--peer=192.0.2.1", "--as=4294967296", "--id=here"} {
		var stderr strings.Builder
		assert.Equal(t, 1, calico.Main([]string{"tor", arg}, io.Discard, &stderr))
		assert.Contains(t, stderr.String(), "podweft-calico: tor: ", arg)
	}
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	err := calico.Config{
		NetNS: "/run/netns/x", Network: "a b", Routes: "guess", BGP: calico.BGP{Mesh: "some"}, MTU: 100,
		Pools: []calico.Pool{
			{Prefix: netip.MustParsePrefix("10.0.0.0/8"), VXLAN: calico.Always, IPIP: calico.Always, BlockBits: 4},
			{Prefix: netip.MustParsePrefix("10.1.0.0/16"), VXLAN: "x"},
		},
	}.Validate()
	require.ErrorIs(t, err, podweft.ErrInvalid)
	for _, field := range []string{"Node", "Blocks", "Nodes", "Network", "MTU", "Routes", "BGP.Mesh", "Pools[0].BlockBits", "Pools[0].IPIP", "Pools[1].VXLAN", "Pools[1].Prefix"} {
		assert.ErrorContains(t, err, field)
	}
}

func TestParseSelector(t *testing.T) {
	labels := map[string]string{"rack": "a", "gpu": ""}
	for text, want := range map[string]bool{
		"": true, "all()": true, "rack == 'a'": true, `rack == "b"`: false, "rack != 'b'": true, "has(gpu)": true, "!has(gpu)": false,
		"rack in {'b', 'a'}": true, "rack not in {'a'}": false, "has(gpu) && rack == 'b'": false, "all() && has(gpu)": true,
	} {
		s, err := calico.ParseSelector(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, s.Matches(labels), text)
	}
	for _, text := range []string{"rack", "rack = 'a'", "rack in {}", "a == 'b' || c == 'd'"} {
		_, err := calico.ParseSelector(text)
		require.ErrorIs(t, err, podweft.ErrInvalid, text)
	}
}
