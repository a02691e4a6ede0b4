package vxlan_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/vxlan"
)

func network(t testing.TB, text string) *subnet.Network {
	t.Helper()
	n, err := subnet.ParseNetwork([]byte(text))
	require.NoError(t, err)
	return n
}

const (
	v4Only    = `{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}`
	dualStack = `{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48", "Backend": {"Type": "vxlan"}}`
	v6Only    = `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:244::/48", "Backend": {"Type": "vxlan"}}`
)

func nodeOf(underlays ...string) subnet.Node {
	n := subnet.Node{Name: "one", Device: "eth0", MTU: 1500}
	n.Underlay = addrs(underlays...)
	return n
}

func addrs(all ...string) (a subnet.Addrs) {
	for _, text := range all {
		if addr := netip.MustParseAddr(text); addr.Is4() {
			a.V4 = addr
		} else {
			a.V6 = addr
		}
	}
	return a
}

// leaseOf is the lease of a node with a number: its subnets, and VTEPs whose MACs end in it.
func leaseOf(number int, v4, v6 bool, underlays ...string) *subnet.Lease {
	node := map[int]string{1: "one", 2: "two", 3: "three", 4: "four"}[number]
	l := &subnet.Lease{Key: node, Node: node, Backend: vxlan.Type, Underlay: addrs(underlays...)}
	if v4 {
		l.Prefixes.V4 = netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", number))
	}
	if v6 {
		l.Prefixes.V6 = netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%d::/64", number))
	}
	data := func(family byte) json.RawMessage {
		return fmt.Appendf(nil, `{"VNI":1,"VtepMAC":"0e:00:00:00:%02x:%02x"}`, family, number)
	}
	if l.Underlay.V4.IsValid() {
		l.Data.V4 = data(4)
	}
	if l.Underlay.V6.IsValid() {
		l.Data.V6 = data(6)
	}
	return l
}

// another is a second lease of that node, with subnets of its own.
func another(number int, underlays ...string) *subnet.Lease {
	l := leaseOf(number, false, false, underlays...)
	l.Key += "+"
	l.Prefixes.V4 = netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", 100+number))
	l.Prefixes.V6 = netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%d::/64", 100+number))
	return l
}

// brief is a Spec without what all of them have in common.
func brief(spec vxlan.Spec) []string {
	all := []string{}
	for _, v := range spec.VTEPs {
		all = append(all, fmt.Sprintf("vtep %d %s mtu %d %s %v", v.VNI, v.Local, v.MTU, v.MAC, v.Addresses))
	}
	for _, p := range spec.Peers {
		all = append(all, fmt.Sprintf("%s %s %s %v", p.Node, p.Underlay, p.MAC, p.Prefixes))
	}
	return all
}

func TestCompile(t *testing.T) {
	const one4, one6, two4, two6 = "192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2"
	vtep4 := "vtep 1 192.0.2.1 mtu 1450 0e:00:00:00:04:01 "
	vtep6 := "vtep 1 2001:db8::1 mtu 1430 0e:00:00:00:06:01 "
	spoiled := func(l *subnet.Lease, change func(*subnet.Lease)) *subnet.Lease {
		change(l)
		return l
	}
	tests := []struct {
		name     string
		network  string
		node     subnet.Node
		leases   []*subnet.Lease
		want     []string
		problems []string
	}{
		{
			"alone", v4Only, nodeOf(one4), []*subnet.Lease{leaseOf(1, true, false, one4)},
			[]string{vtep4 + "[10.244.1.0/32]"}, nil,
		},
		{
			"dual stack: each family over its own", dualStack, nodeOf(one4, one6),
			[]*subnet.Lease{leaseOf(1, true, true, one4, one6), leaseOf(2, true, true, two4, two6)},
			[]string{
				vtep4 + "[10.244.1.0/32]", vtep6 + "[fd00:244:0:1::/128]",
				"two 192.0.2.2 0e:00:00:00:04:02 [10.244.2.0/24]", "two 2001:db8::2 0e:00:00:00:06:02 [fd00:244:0:2::/64]",
			}, nil,
		},
		{
			"dual stack over an IPv4 underlay", dualStack, nodeOf(one4),
			[]*subnet.Lease{leaseOf(1, true, true, one4), leaseOf(2, true, true, two4)},
			[]string{
				vtep4 + "[10.244.1.0/32 fd00:244:0:1::/128]",
				"two 192.0.2.2 0e:00:00:00:04:02 [10.244.2.0/24 fd00:244:0:2::/64]",
			}, nil,
		},
		{
			"dual stack over an IPv6 underlay", dualStack, nodeOf(one6),
			[]*subnet.Lease{leaseOf(1, true, true, one6), leaseOf(2, true, true, two6)},
			[]string{
				vtep6 + "[10.244.1.0/32 fd00:244:0:1::/128]",
				"two 2001:db8::2 0e:00:00:00:06:02 [10.244.2.0/24 fd00:244:0:2::/64]",
			}, nil,
		},
		{
			"a peer with one underlay family", dualStack, nodeOf(one4, one6),
			[]*subnet.Lease{leaseOf(1, true, true, one4, one6), leaseOf(2, true, true, two4)},
			[]string{
				vtep4 + "[10.244.1.0/32]", vtep6 + "[fd00:244:0:1::/128]",
				"two 192.0.2.2 0e:00:00:00:04:02 [10.244.2.0/24 fd00:244:0:2::/64]",
			}, nil,
		},
		{
			"IPv6 alone", v6Only, nodeOf(one6),
			[]*subnet.Lease{leaseOf(1, false, true, one6), leaseOf(2, false, true, two6)},
			[]string{vtep6 + "[fd00:244:0:1::/128]", "two 2001:db8::2 0e:00:00:00:06:02 [fd00:244:0:2::/64]"}, nil,
		},
		{
			"no family in common", dualStack, nodeOf(one4),
			[]*subnet.Lease{leaseOf(1, true, true, one4), leaseOf(2, true, true, two6)},
			[]string{vtep4 + "[10.244.1.0/32 fd00:244:0:1::/128]"},
			[]string{"lease two of two: PublicIP: 2001:db8::2 has no family in common with this node's 192.0.2.1"},
		},
		{
			"peers in order of their prefixes, whatever their keys", v4Only, nodeOf(one4),
			[]*subnet.Lease{leaseOf(4, true, false, "192.0.2.4"), leaseOf(1, true, false, one4), leaseOf(3, true, false, "192.0.2.3"), leaseOf(2, true, false, two4)},
			[]string{
				vtep4 + "[10.244.1.0/32]", "two 192.0.2.2 0e:00:00:00:04:02 [10.244.2.0/24]",
				"three 192.0.2.3 0e:00:00:00:04:03 [10.244.3.0/24]", "four 192.0.2.4 0e:00:00:00:04:04 [10.244.4.0/24]",
			}, nil,
		},
		{
			"a bad lease costs its own node the connection", v4Only, nodeOf(one4),
			[]*subnet.Lease{
				leaseOf(1, true, false, one4),
				spoiled(leaseOf(2, true, false, two4), func(l *subnet.Lease) { l.Data.V4 = json.RawMessage(`{"VtepMAC": 5}`) }),
				leaseOf(3, true, false, "192.0.2.3"),
				spoiled(leaseOf(4, true, false, "192.0.2.4"), func(l *subnet.Lease) { l.Data.V4 = nil }),
			},
			[]string{vtep4 + "[10.244.1.0/32]", "three 192.0.2.3 0e:00:00:00:04:03 [10.244.3.0/24]"},
			[]string{`lease two of two: BackendData: "{\"VtepMAC\": 5}" does not say a VTEP's MAC: json: cannot unmarshal`, "lease four of four: BackendData: is missing"},
		},
		{
			"hostile MACs", v4Only, nodeOf(one4),
			[]*subnet.Lease{
				leaseOf(1, true, false, one4),
				spoiled(leaseOf(2, true, false, two4), func(l *subnet.Lease) { l.Data.V4 = leaseOf(1, true, false, one4).Data.V4 }),
				spoiled(leaseOf(3, true, false, "192.0.2.3"), func(l *subnet.Lease) { l.Data.V4 = json.RawMessage(`{"VtepMAC":"ff:ff:ff:ff:ff:ff"}`) }),
				leaseOf(4, true, false, "192.0.2.4"),
			},
			[]string{vtep4 + "[10.244.1.0/32]", "four 192.0.2.4 0e:00:00:00:04:04 [10.244.4.0/24]"},
			[]string{"lease two of two: VtepMAC: 0e:00:00:00:04:01 is that of one too", "lease three of three: VtepMAC: ff:ff:ff:ff:ff:ff is not one station's address"},
		},
		{
			"two leases of one node are one peer, in order of prefixes", dualStack, nodeOf(one4, one6),
			[]*subnet.Lease{leaseOf(1, true, true, one4, one6), leaseOf(2, true, true, two4, two6), another(2, two4, two6)},
			[]string{
				vtep4 + "[10.244.1.0/32]", vtep6 + "[fd00:244:0:1::/128]",
				"two 192.0.2.2 0e:00:00:00:04:02 [10.244.2.0/24 10.244.102.0/24]",
				"two 2001:db8::2 0e:00:00:00:06:02 [fd00:244:0:2::/64 fd00:244:0:102::/64]",
			}, nil,
		},
		{
			"two leases of one node over one family", dualStack, nodeOf(one4),
			[]*subnet.Lease{leaseOf(1, true, true, one4), another(2, two4), leaseOf(2, true, true, two4)},
			[]string{
				vtep4 + "[10.244.1.0/32 fd00:244:0:1::/128]",
				"two 192.0.2.2 0e:00:00:00:04:02 [10.244.2.0/24 10.244.102.0/24 fd00:244:0:2::/64 fd00:244:0:102::/64]",
			}, nil,
		},
		{
			"a node's MAC at another address, and from another node", v4Only, nodeOf(one4),
			[]*subnet.Lease{
				leaseOf(1, true, false, one4), leaseOf(2, true, false, two4),
				spoiled(another(2, "192.0.2.9"), func(l *subnet.Lease) { l.Prefixes.V6 = netip.Prefix{} }),
				spoiled(leaseOf(3, true, false, two4), func(l *subnet.Lease) { l.Data = leaseOf(2, true, false, two4).Data }),
			},
			[]string{vtep4 + "[10.244.1.0/32]", "two 192.0.2.2 0e:00:00:00:04:02 [10.244.2.0/24]"},
			[]string{
				"lease two+ of two: VtepMAC: 0e:00:00:00:04:02 is that of two too", "lease three of three: VtepMAC: 0e:00:00:00:04:02 is that of two too",
			},
		},
		{
			"another backend, another node's subnet", v4Only, nodeOf(one4),
			[]*subnet.Lease{
				leaseOf(1, true, false, one4),
				spoiled(leaseOf(2, true, false, two4), func(l *subnet.Lease) { l.Backend = "host-gw" }),
				spoiled(leaseOf(3, true, false, "192.0.2.3"), func(l *subnet.Lease) { l.Prefixes.V4 = netip.MustParsePrefix("10.244.1.0/25") }),
			},
			[]string{vtep4 + "[10.244.1.0/32]"},
			[]string{"lease three of three: ", `lease two of two: BackendType: "host-gw" is not ours`},
		},
		{
			"moved to the address of a node that is gone, and not published yet", v4Only, nodeOf(one4),
			[]*subnet.Lease{leaseOf(1, true, false, "192.0.2.9"), leaseOf(2, true, false, one4), leaseOf(3, true, false, "192.0.2.3")},
			[]string{vtep4 + "[10.244.1.0/32]", "three 192.0.2.3 0e:00:00:00:04:03 [10.244.3.0/24]"},
			[]string{"lease two of two: PublicIP: 192.0.2.1 is this node's own"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			snapshot := &subnet.Snapshot{Network: network(t, tt.network), Leases: tt.leases}
			spec, problems, err := vxlan.Compile(tt.node, snapshot)
			require.NoError(t, err)
			assert.Equal(t, tt.want, brief(spec))
			assert.NoError(t, spec.Validate())
			require.Len(t, problems, len(tt.problems), "%v", problems)
			for i, want := range tt.problems {
				assert.ErrorContains(t, problems[i], want)
				assert.ErrorIs(t, problems[i], podweft.ErrInvalid)
			}
			again, _, err := vxlan.Compile(tt.node, snapshot)
			require.NoError(t, err)
			assert.Equal(t, spec, again)
		})
	}
}

func TestCompileTakesTheConfiguration(t *testing.T) {
	snapshot := &subnet.Snapshot{
		Network: network(t, `{"Network": "10.244.0.0/16", "Backend": {
			"Type": "vxlan", "VNI": 4096, "Port": 4789, "MTU": 9000, "GBP": true, "Learning": true, "DirectRouting": true, "MTUProbe": "unknown"}}`),
		Leases: []*subnet.Lease{leaseOf(1, true, false, "192.0.2.1")},
	}
	spec, _, err := vxlan.Compile(nodeOf("192.0.2.1"), snapshot)
	require.NoError(t, err)
	assert.Equal(t, vxlan.Spec{DirectRouting: true, Peers: []vxlan.Peer{}, VTEPs: []vxlan.VTEP{{
		VNI: 4096, Port: 4789, Device: "eth0", Local: netip.MustParseAddr("192.0.2.1"), MAC: podweft.MAC{0x0e, 0, 0, 0, 4, 1},
		MTU: 8950, GBP: true, Learning: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/32")},
	}}}, spec)
}

func TestCompileRefuses(t *testing.T) {
	own := leaseOf(1, true, false, "192.0.2.1")
	bad := *own
	bad.Data.V4 = nil
	tests := []struct {
		name    string
		backend string
		leases  []*subnet.Lease
		want    string
		invalid bool
	}{
		{"no lease", ``, nil, "compile vxlan for one: it has no lease", false},
		{"a VNI of none", `, "VNI": 0`, []*subnet.Lease{own}, "Backend.VNI: 0 is not a VNI: use 1 to 16777215", true},
		{"a VNI of 25 bits", `, "VNI": 16777216`, []*subnet.Lease{own}, "Backend.VNI: 16777216 is not a VNI: use 1 to 16777215", true},
		{"an MTU that is none", `, "MTU": 50`, []*subnet.Lease{own}, "Backend.MTU: 50 leaves no room for packets of pods: give the underlay's, or leave it out", true},
		{"a port that is none", `, "Port": 65536`, []*subnet.Lease{own}, "Backend.Port: number 65536 does not fit: write a uint16", true},
		{"a word for a truth", `, "DirectRouting": "yes"`, []*subnet.Lease{own}, "Backend.DirectRouting: string does not fit: write a bool", true},
		{"own data missing", ``, []*subnet.Lease{&bad}, "own lease one: BackendData: is missing", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := network(t, fmt.Sprintf(`{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"%s}}`, tt.backend))
			spec, _, err := vxlan.Compile(nodeOf("192.0.2.1"), &subnet.Snapshot{Network: n, Leases: tt.leases})
			assert.EqualError(t, err, tt.want)
			assert.Zero(t, spec)
			if tt.invalid {
				assert.ErrorIs(t, err, podweft.ErrInvalid)
			}
		})
	}
}

// TestCompileBelievesTheOlder: of two nodes that say one MAC, the one whose lease has stood for longer is reached, whatever its key.
func TestCompileBelievesTheOlder(t *testing.T) {
	for _, older := range []int{2, 3} {
		own, two, three := leaseOf(1, true, false, "192.0.2.1"), leaseOf(2, true, false, "192.0.2.2"), leaseOf(3, true, false, "192.0.2.3")
		three.Data = two.Data
		two.Revision, three.Revision = 7, 7
		believed, other := two, three
		if older == 3 {
			believed, other = three, two
		}
		believed.Revision = 5
		snap := &subnet.Snapshot{Revision: 9, Network: network(t, v4Only), Leases: []*subnet.Lease{own, three, two}}
		spec, problems, err := vxlan.Compile(nodeOf("192.0.2.1"), snap)
		require.NoError(t, err)
		require.Len(t, spec.Peers, 1)
		assert.Equal(t, believed.Node, spec.Peers[0].Node)
		require.Len(t, problems, 1)
		assert.Equal(t, other.Node, problems[0].Node)
	}
}
