package kube_test

import (
	"encoding/json"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/kube"
	"github.com/podweft/podweft/subnet"
)

const (
	prefix = "flannel.alpha.coreos.com/"

	vtep4 = `{"VNI":1,"VtepMAC":"0e:1d:2c:3b:4a:59"}`
	vtep6 = `{"VNI":1,"VtepMAC":"0e:1d:2c:3b:4a:60"}`
)

// What flannel v0.28 writes on a node, by backend and families, and the lease that it means.
var flannels = []struct {
	name        string
	annotations map[string]string // without the prefix and without kube-subnet-manager
	podCIDRs    []string
	want        subnet.Lease      // without Key, Node and Revision
	ours        map[string]string // what we write where it differs; "-" where we write nothing
}{
	{
		name:        "vxlan, IPv4",
		annotations: map[string]string{"backend-type": "vxlan", "backend-data": vtep4, "public-ip": "192.0.2.3"},
		podCIDRs:    []string{"10.244.3.0/24"},
		want:        subnet.Lease{Prefixes: prefixes("10.244.3.0/24"), Underlay: addrs("192.0.2.3"), Backend: "vxlan", Data: data(vtep4, "")},
	},
	{
		name: "vxlan, both",
		annotations: map[string]string{
			"backend-type": "vxlan", "backend-data": vtep4, "public-ip": "192.0.2.3", "backend-v6-data": vtep6, "public-ipv6": "2001:db8::3",
		},
		podCIDRs: []string{"10.244.3.0/24", "fd00:244:0:3::/64"},
		want: subnet.Lease{
			Prefixes: prefixes("10.244.3.0/24", "fd00:244:0:3::/64"), Underlay: addrs("192.0.2.3", "2001:db8::3"), Backend: "vxlan", Data: data(vtep4, vtep6),
		},
	},
	{
		name:        "vxlan, IPv6",
		annotations: map[string]string{"backend-type": "vxlan", "backend-v6-data": vtep6, "public-ipv6": "2001:db8::3"},
		podCIDRs:    []string{"fd00:244:0:3::/64"},
		want:        subnet.Lease{Prefixes: prefixes("fd00:244:0:3::/64"), Underlay: addrs("2001:db8::3"), Backend: "vxlan", Data: data("", vtep6)},
	},
	{
		name:        "host-gw, IPv4",
		annotations: map[string]string{"backend-type": "host-gw", "backend-data": "null", "public-ip": "192.0.2.3"},
		podCIDRs:    []string{"10.244.3.0/24"},
		want:        subnet.Lease{Prefixes: prefixes("10.244.3.0/24"), Underlay: addrs("192.0.2.3"), Backend: "host-gw"},
	},
	{
		name: "host-gw, both",
		annotations: map[string]string{
			"backend-type": "host-gw", "backend-data": "null", "public-ip": "192.0.2.3", "backend-v6-data": "null", "public-ipv6": "2001:db8::3",
		},
		podCIDRs: []string{"fd00:244:0:3::/64", "10.244.3.0/24"},
		want:     subnet.Lease{Prefixes: prefixes("10.244.3.0/24", "fd00:244:0:3::/64"), Underlay: addrs("192.0.2.3", "2001:db8::3"), Backend: "host-gw"},
	},
	{
		name: "host-gw, IPv6",
		annotations: map[string]string{
			"backend-type": "host-gw", "backend-data": "null", "public-ip": "0.0.0.0", "backend-v6-data": "null", "public-ipv6": "2001:db8::3",
		},
		podCIDRs: []string{"fd00:244:0:3::/64"},
		want:     subnet.Lease{Prefixes: prefixes("fd00:244:0:3::/64"), Underlay: addrs("2001:db8::3"), Backend: "host-gw"},
		ours:     map[string]string{"backend-data": "-", "public-ip": "-"},
	},
	{
		name:        "udp",
		annotations: map[string]string{"backend-type": "", "backend-data": "null", "public-ip": "192.0.2.3"},
		podCIDRs:    []string{"10.244.3.0/24"},
		want:        subnet.Lease{Prefixes: prefixes("10.244.3.0/24"), Underlay: addrs("192.0.2.3")},
	},
	{
		name:        "ipip",
		annotations: map[string]string{"backend-type": "ipip", "backend-data": "null", "public-ip": "192.0.2.3"},
		podCIDRs:    []string{"10.244.3.0/24"},
		want:        subnet.Lease{Prefixes: prefixes("10.244.3.0/24"), Underlay: addrs("192.0.2.3"), Backend: "ipip"},
	},
	{
		name:        "extension",
		annotations: map[string]string{"backend-type": "extension", "backend-data": `"a tunnel's name"`, "public-ip": "192.0.2.3"},
		podCIDRs:    []string{"10.244.3.0/24"},
		want:        subnet.Lease{Prefixes: prefixes("10.244.3.0/24"), Underlay: addrs("192.0.2.3"), Backend: "extension", Data: data(`"a tunnel's name"`, "")},
	},
}

func TestLeaseOfFlannel(t *testing.T) {
	for _, tt := range flannels {
		t.Run(tt.name, func(t *testing.T) {
			n := node("node-3", tt.annotations, tt.podCIDRs...)
			n.ResourceVersion = "4711"
			want := tt.want
			want.Key, want.Node, want.Revision = "node-3", "node-3", 4711

			got, err := kube.Annotations{}.Lease(n)
			require.NoError(t, err)
			assert.Equal(t, &want, got)
		})
	}
}

func TestLeaseSkipsNonsense(t *testing.T) {
	const agent = "restart the node's agent, which writes it"
	sound := map[string]string{
		"backend-type": "vxlan", "backend-data": vtep4, "public-ip": "192.0.2.3", "backend-v6-data": vtep6, "public-ipv6": "2001:db8::3",
	}
	whole := subnet.Lease{
		Key: "node-3", Node: "node-3", Prefixes: prefixes("10.244.3.0/24", "fd00:244:0:3::/64"), Underlay: addrs("192.0.2.3", "2001:db8::3"),
		Backend: "vxlan", Data: data(vtep4, vtep6),
	}
	but := func(change func(*subnet.Lease)) *subnet.Lease {
		l := whole
		change(&l)
		return &l
	}
	for _, tt := range []struct {
		name        string
		annotations map[string]string // in place of the sound ones
		podCIDRs    []string          // in place of the sound ones
		change      func(*corev1.Node)
		want        *subnet.Lease
		problems    []string
	}{
		{name: "nothing", want: &whole},
		{
			name:        "no address at all is for peers to judge",
			annotations: map[string]string{"public-ip": "", "public-ipv6": ""},
			want:        but(func(l *subnet.Lease) { l.Underlay = subnet.Addrs{} }),
		},
		{
			name:        "an address of the other family",
			annotations: map[string]string{"public-ip": "2001:db8::3"},
			want:        but(func(l *subnet.Lease) { l.Underlay.V4 = netip.Addr{} }),
			problems:    []string{prefix + `public-ip: "2001:db8::3" is not an IPv4 address: ` + agent + " or copies it from public-ip-overwrite"},
		},
		{
			name:        "addresses of no family",
			annotations: map[string]string{"public-ip": "192.0.2.3/24", "public-ipv6": "::ffff:192.0.2.3"},
			want:        but(func(l *subnet.Lease) { l.Underlay = subnet.Addrs{} }),
			problems: []string{
				prefix + `public-ip: "192.0.2.3/24" is not an IPv4 address: ` + agent + " or copies it from public-ip-overwrite",
				prefix + `public-ipv6: "::ffff:192.0.2.3" is not an IPv6 address: ` + agent + " or copies it from public-ipv6-overwrite",
			},
		},
		{
			name:        "an address of one link",
			annotations: map[string]string{"public-ipv6": "fe80::1%eth0"},
			want:        but(func(l *subnet.Lease) { l.Underlay.V6 = netip.Addr{} }),
			problems:    []string{prefix + `public-ipv6: "fe80::1%eth0" is not an IPv6 address: ` + agent + " or copies it from public-ipv6-overwrite"},
		},
		{
			name:        "no JSON",
			annotations: map[string]string{"backend-data": `{"VNI":1`, "backend-v6-data": strings.Repeat("x", 1000)},
			want:        but(func(l *subnet.Lease) { l.Data = subnet.Data{} }),
			problems: []string{
				prefix + `backend-data: "{\"VNI\":1" is not JSON: ` + agent,
				prefix + `backend-v6-data: "` + strings.Repeat("x", 100) + `" is not JSON: ` + agent,
			},
		},
		{
			name:     "host bits",
			podCIDRs: []string{"10.244.3.7/24", "fd00:244:0:3::1/64"},
			want:     &whole,
		},
		{
			name:     "one bad subnet",
			podCIDRs: []string{"10.244.3.0", "fd00:244:0:3::/64"},
			want:     but(func(l *subnet.Lease) { l.Prefixes.V4 = netip.Prefix{} }),
			problems: []string{`spec.podCIDRs: "10.244.3.0" is not a subnet: one reads like "10.244.3.0/24"; to change it, make the Node anew`},
		},
		{
			name:     "an IPv4 subnet in IPv6 clothes",
			podCIDRs: []string{"10.244.3.0/24", "::ffff:10.244.3.0/120"},
			want:     but(func(l *subnet.Lease) { l.Prefixes.V6 = netip.Prefix{} }),
			problems: []string{`spec.podCIDRs: "::ffff:10.244.3.0/120" is not a subnet: one reads like "10.244.3.0/24"; to change it, make the Node anew`},
		},
		{
			name:     "two of a family",
			podCIDRs: []string{"10.244.3.0/24", "fd00:244:0:3::/64", "10.244.4.0/24"},
			want:     &whole,
			problems: []string{`spec.podCIDRs: "10.244.4.0/24" is a second IPv4 subnet: a node has one of each family; to change it, make the Node anew`},
		},
		{
			name:   "podCIDR where podCIDRs is empty",
			change: func(n *corev1.Node) { n.Spec = corev1.NodeSpec{PodCIDR: "10.244.3.0/24"} },
			want:   but(func(l *subnet.Lease) { l.Prefixes.V6 = netip.Prefix{} }),
		},
		{
			name:     "a bad podCIDR",
			change:   func(n *corev1.Node) { n.Spec = corev1.NodeSpec{PodCIDR: "10.244/16"} },
			problems: []string{`spec.podCIDR: "10.244/16" is not a subnet: one reads like "10.244.3.0/24"; to change it, make the Node anew`},
		},
		{
			name:   "no subnet",
			change: func(n *corev1.Node) { n.Spec = corev1.NodeSpec{} },
			problems: []string{"spec.podCIDRs: is missing: let kube-controller-manager give out subnets (--allocate-node-cidrs, --cluster-cidr), " +
				"or set it on the node"},
		},
		{
			name:   "a resource version that is no number",
			change: func(n *corev1.Node) { n.ResourceVersion = "4711-b" },
			want:   &whole,
		},
		{
			name:   "one that is too large", // and must not pass for the largest
			change: func(n *corev1.Node) { n.ResourceVersion = "99999999999999999999" },
			want:   &whole,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			annotations := maps.Clone(sound)
			maps.Copy(annotations, tt.annotations)
			podCIDRs := []string{"10.244.3.0/24", "fd00:244:0:3::/64"}
			if tt.podCIDRs != nil {
				podCIDRs = tt.podCIDRs
			}
			n := node("node-3", annotations, podCIDRs...)
			if tt.change != nil {
				tt.change(n)
			}
			before := n.DeepCopy()

			got, err := kube.Annotations{}.Lease(n)
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.problems, texts(err))
			if tt.problems != nil {
				assert.ErrorIs(t, err, podweft.ErrInvalid)
				var field *podweft.FieldError
				assert.ErrorAs(t, err, &field)
			}
			assert.Equal(t, before, n, "the node is not ours to change")
		})
	}
}

func TestLeaseOfUnmanaged(t *testing.T) {
	for _, tt := range []struct {
		name  string
		value map[string]string
	}{
		{"no annotations", nil},
		{"none of ours", map[string]string{"example.com/kube-subnet-manager": "true", prefix + "public-ip": "nonsense"}},
		{"not true", map[string]string{prefix + "kube-subnet-manager": "True"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := node("node-3", nil, "10.244.3.0/24")
			n.Annotations = tt.value
			l, err := kube.Annotations{}.Lease(n)
			assert.Nil(t, l)
			require.ErrorIs(t, err, kube.ErrNotManaged)
			assert.NotErrorIs(t, err, podweft.ErrInvalid)
			assert.EqualError(t, err, "node node-3: no agent manages this node's pod network: its annotation "+prefix+`kube-subnet-manager is not "true"`)
		})
	}
}

func TestNodePublicIP(t *testing.T) {
	for _, tt := range []struct {
		name        string
		annotations map[string]string
		want        subnet.Addrs
		problems    []string
	}{
		{name: "nobody chose"},
		{name: "one", annotations: map[string]string{"node-public-ip": "192.0.2.9", "public-ip": "192.0.2.3"}, want: addrs("192.0.2.9")},
		{name: "both", annotations: map[string]string{"node-public-ip": "192.0.2.9", "node-public-ipv6": "2001:db8::9"}, want: addrs("192.0.2.9", "2001:db8::9")},
		{
			name:        "one that makes no sense",
			annotations: map[string]string{"node-public-ip": "eth1", "node-public-ipv6": "2001:db8::9"},
			want:        addrs("2001:db8::9"),
			problems:    []string{prefix + `node-public-ip: "eth1" is not an IPv4 address: write one that peers send to, such as 192.0.2.3`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := kube.Annotations{}.NodePublicIP(node("node-3", tt.annotations))
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.problems, texts(err))
		})
	}
}

// node is a Node that an agent manages, with the annotations, whose names lack flannel's prefix, and the pod subnets.
func node(name string, annotations map[string]string, podCIDRs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{prefix + "kube-subnet-manager": "true"}}}
	for name, text := range annotations {
		n.Annotations[prefix+name] = text
	}
	n.Spec.PodCIDRs = podCIDRs
	if len(podCIDRs) > 0 {
		n.Spec.PodCIDR = podCIDRs[0]
	}
	return n
}

func prefixes(of ...string) (p subnet.Prefixes) {
	for _, text := range of {
		if x := netip.MustParsePrefix(text); x.Addr().Is4() {
			p.V4 = x
		} else {
			p.V6 = x
		}
	}
	return p
}

func addrs(of ...string) (a subnet.Addrs) {
	for _, text := range of {
		if x := netip.MustParseAddr(text); x.Is4() {
			a.V4 = x
		} else {
			a.V6 = x
		}
	}
	return a
}

func data(v4, v6 string) (d subnet.Data) {
	if v4 != "" {
		d.V4 = json.RawMessage(v4)
	}
	if v6 != "" {
		d.V6 = json.RawMessage(v6)
	}
	return d
}

// texts are the lines of a joined error.
func texts(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}
