package kube_test

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/kube"
	"github.com/podweft/podweft/subnet"
)

// TestPatchWritesWhatFlannelDoes: on a bare node our annotations are flannel's, to the byte.
func TestPatchWritesWhatFlannelDoes(t *testing.T) {
	for _, tt := range flannels {
		t.Run(tt.name, func(t *testing.T) {
			want := map[string]string{prefix + "kube-subnet-manager": "true"}
			for name, text := range tt.annotations {
				if _, differs := tt.ours[name]; !differs {
					want[prefix+name] = text
				}
			}
			for name, text := range tt.ours {
				if text != "-" {
					want[prefix+name] = text
				}
			}
			lease := tt.want
			lease.Node = "node-3"
			bare := &corev1.Node{}

			patch, err := kube.Annotations{}.Patch(bare, &lease)
			require.NoError(t, err)
			apply(bare, patch)
			assert.Equal(t, want, bare.Annotations)

			// On a node where flannel has run, nothing but the differences is written.
			patch, err = kube.Annotations{}.Patch(node("node-3", tt.annotations), &lease)
			require.NoError(t, err)
			assert.Len(t, patch, len(tt.ours))
		})
	}
}

func TestPatch(t *testing.T) {
	dual := map[string]string{
		"backend-type": "vxlan", "backend-data": vtep4, "public-ip": "192.0.2.3", "backend-v6-data": vtep6, "public-ipv6": "2001:db8::3",
	}
	lease := subnet.Lease{Node: "node-3", Underlay: addrs("192.0.2.3", "2001:db8::3"), Backend: "vxlan", Data: data(vtep4, vtep6)}
	but := func(change func(*subnet.Lease)) *subnet.Lease {
		l := lease
		change(&l)
		return &l
	}
	for _, tt := range []struct {
		name     string
		also     map[string]string // on the node, beside those of the lease
		lease    *subnet.Lease
		want     map[string]string // "-" takes away
		problems []string
	}{
		{name: "in sync", lease: &lease},
		{name: "what others wrote", also: map[string]string{"node-public-ip": "192.0.2.9", "blue-public-ip": "x"}, lease: &lease},
		{
			name:  "the address of one family",
			lease: but(func(l *subnet.Lease) { l.Underlay.V6 = netip.MustParseAddr("2001:db8::33") }),
			want:  map[string]string{"public-ipv6": "2001:db8::33"},
		},
		{
			name:  "the data of one family",
			lease: but(func(l *subnet.Lease) { l.Data.V4 = json.RawMessage(`{"VNI":2}`) }),
			want:  map[string]string{"backend-data": `{"VNI":2}`},
		},
		{
			name:  "the backend",
			lease: but(func(l *subnet.Lease) { l.Backend, l.Data = "host-gw", subnet.Data{} }),
			want:  map[string]string{"backend-type": "host-gw", "backend-data": "null", "backend-v6-data": "null"},
		},
		{
			name:  "a family gone",
			lease: but(func(l *subnet.Lease) { l.Underlay.V6, l.Data.V6 = netip.Addr{}, nil }),
			want:  map[string]string{"public-ipv6": "-", "backend-v6-data": "-"},
		},
		{
			name:  "data without an address stays",
			lease: but(func(l *subnet.Lease) { l.Underlay.V6 = netip.Addr{} }),
			want:  map[string]string{"public-ipv6": "-"},
		},
		{
			name: "the lease given back",
			also: map[string]string{"public-ip-overwrite": "203.0.113.7"},
			want: map[string]string{
				"kube-subnet-manager": "-", "backend-type": "-", "public-ip": "-", "backend-data": "-", "public-ipv6": "-", "backend-v6-data": "-",
			},
		},
		{
			name:  "another agent stopped half way",
			also:  map[string]string{"kube-subnet-manager": "false"},
			lease: &lease,
			want:  map[string]string{"kube-subnet-manager": "true"},
		},
		{
			name:  "white space, which flannel's reader of MACs cannot bear",
			also:  map[string]string{"backend-data": `{"VNI": 1, "VtepMAC": "0e:1d:2c:3b:4a:59"}`},
			lease: but(func(l *subnet.Lease) { l.Data.V4 = json.RawMessage(`{ "VNI": 1, "VtepMAC": "0e:1d:2c:3b:4a:59" }`) }),
			want:  map[string]string{"backend-data": vtep4},
		},
		{
			name:  "an operator's address for peers",
			also:  map[string]string{"public-ip-overwrite": "203.0.113.7", "public-ipv6-overwrite": "2001:DB8:0::7"},
			lease: &lease,
			want:  map[string]string{"public-ip": "203.0.113.7", "public-ipv6": "2001:db8::7"},
		},
		{
			name:  "one that is in force",
			also:  map[string]string{"public-ip-overwrite": "203.0.113.7", "public-ip": "203.0.113.7"},
			lease: &lease,
		},
		{
			name:  "one that the operator took away",
			also:  map[string]string{"public-ip": "203.0.113.7"},
			lease: &lease,
			want:  map[string]string{"public-ip": "192.0.2.3"},
		},
		{
			name:  "one of a family that the node lacks",
			also:  map[string]string{"public-ipv6-overwrite": "2001:db8::7"},
			lease: but(func(l *subnet.Lease) { l.Underlay.V6, l.Data.V6 = netip.Addr{}, nil }),
			want:  map[string]string{"public-ipv6": "-", "backend-v6-data": "-"},
		},
		{
			name:  "ones that make no sense",
			also:  map[string]string{"public-ip-overwrite": "nat.example.com", "public-ipv6-overwrite": "203.0.113.7"},
			lease: &lease,
			problems: []string{
				prefix + `public-ip-overwrite: "nat.example.com" is not an IPv4 address: write where peers reach the node, such as 192.0.2.3, or take the annotation away`,
				prefix + `public-ipv6-overwrite: "203.0.113.7" is not an IPv6 address: write where peers reach the node, such as 2001:db8::3, or take the annotation away`,
			},
		},
		{
			name: "addresses of the wrong family",
			lease: but(func(l *subnet.Lease) {
				l.Underlay = subnet.Addrs{V4: netip.MustParseAddr("2001:db8::3"), V6: netip.MustParseAddr("::")}
			}),
			problems: []string{
				prefix + "public-ip: 2001:db8::3 is not an IPv4 address that peers can send to",
				prefix + "public-ipv6: :: is not an IPv6 address that peers can send to",
			},
		},
		{
			name:     "data that is not JSON",
			lease:    but(func(l *subnet.Lease) { l.Data.V6 = json.RawMessage("{") }),
			problems: []string{`Data.V6: "{" is not JSON`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := node("node-3", dual)
			for name, text := range tt.also {
				n.Annotations[prefix+name] = text
			}
			before := n.DeepCopy()
			patch, err := kube.Annotations{}.Patch(n, tt.lease)
			assert.Equal(t, before, n, "the node is not ours to change")
			require.Equal(t, tt.problems, texts(err))
			if err != nil {
				assert.ErrorIs(t, err, podweft.ErrInvalid)
				assert.Nil(t, patch)
				return
			}
			got := map[string]string{}
			for key, text := range patch {
				got[key] = "-"
				if text != nil {
					got[key] = *text
				}
			}
			want := map[string]string{}
			for name, text := range tt.want {
				want[prefix+name] = text
			}
			assert.Equal(t, want, got)

			apply(n, patch)
			again, err := kube.Annotations{}.Patch(n, tt.lease)
			require.NoError(t, err)
			assert.Empty(t, again, "in sync")
		})
	}
}

// TestPatchRoundTrip: whatever a node looks like, a lease that is patched into it is read back; the second patch is empty; what
// is not the lease's stays.
func TestPatchRoundTrip(t *testing.T) {
	json4 := []string{"", "null", " null ", vtep4, `{"VNI": 1}`, `"x"`, "[1, 2]"}
	addr4, addr6 := []string{"", "0.0.0.0", "192.0.2.3", "192.0.2.4"}, []string{"", "::", "2001:db8::3", "2001:db8:0::4"}
	written := map[string][]string{
		"backend-type": {"", "vxlan", "host-gw"}, "kube-subnet-manager": {"", "true", "no"},
		"backend-data": append(json4, "{"), "public-ip": append(addr4, "x"), "backend-v6-data": append(json4, "}"), "public-ipv6": append(addr6, "y"),
	}
	others := map[string][]string{
		"public-ip-overwrite": addr4, "public-ipv6-overwrite": addr6, "node-public-ip": {"", "z"}, "blue-public-ip": {"192.0.2.8"},
	}
	address := func(t *rapid.T, of []string, label string) (a netip.Addr) {
		if text := rapid.SampledFrom(of).Draw(t, label); text != "" {
			a = netip.MustParseAddr(text)
		}
		if a.IsUnspecified() {
			return netip.Addr{}
		}
		return a
	}
	rapid.Check(t, func(t *rapid.T) {
		n := node("node-3", nil, "10.244.3.0/24", "fd00:244:0:3::/64")
		clear(n.Annotations)
		kept := map[string]string{}
		draw := func(from map[string][]string, into ...map[string]string) {
			for _, name := range slices.Sorted(maps.Keys(from)) {
				if rapid.Bool().Draw(t, "has "+name) {
					text := rapid.SampledFrom(from[name]).Draw(t, name)
					for _, m := range into {
						m[prefix+name] = text
					}
				}
			}
		}
		draw(written, n.Annotations)
		draw(others, n.Annotations, kept)
		lease := &subnet.Lease{
			Key: "node-3", Node: "node-3", Prefixes: prefixes("10.244.3.0/24", "fd00:244:0:3::/64"),
			Underlay: subnet.Addrs{V4: address(t, addr4, "v4"), V6: address(t, addr6, "v6")},
			Backend:  rapid.SampledFrom([]string{"", "vxlan", "host-gw"}).Draw(t, "backend"),
			Data:     data(rapid.SampledFrom(json4).Draw(t, "data"), rapid.SampledFrom(json4).Draw(t, "v6 data")),
		}

		patch, err := kube.Annotations{}.Patch(n, lease)
		require.NoError(t, err)
		for key, text := range patch {
			have, has := n.Annotations[key]
			require.True(t, text == nil && has || text != nil && (!has || *text != have), "%s is no change", key)
		}
		apply(n, patch)
		got, err := kube.Annotations{}.Lease(n)
		require.NoError(t, err)

		want := *lease
		for _, f := range []struct {
			addr *netip.Addr
			name string
		}{{&want.Underlay.V4, "public-ip-overwrite"}, {&want.Underlay.V6, "public-ipv6-overwrite"}} {
			if text := kept[prefix+f.name]; f.addr.IsValid() && text != "" && !netip.MustParseAddr(text).IsUnspecified() {
				*f.addr = netip.MustParseAddr(text)
			}
		}
		for _, raw := range []*json.RawMessage{&want.Data.V4, &want.Data.V6} {
			if string(*raw) == "null" || string(*raw) == " null " {
				*raw = nil
			}
		}
		require.True(t, want.Data.Equal(got.Data), "want %s, got %s", want.Data, got.Data)
		want.Data = got.Data
		require.Equal(t, &want, got)

		again, err := kube.Annotations{}.Patch(n, lease)
		require.NoError(t, err)
		require.Empty(t, again)

		patch, err = kube.Annotations{}.Patch(n, nil)
		require.NoError(t, err)
		apply(n, patch)
		require.Equal(t, kept, n.Annotations, "a lease given back leaves what others wrote, and nothing else")
	})
}

// FuzzLease reads whatever may stand in a Node: it never panics, what it returns is clean, and what was read is written and
// read again as the same.
func FuzzLease(f *testing.F) {
	for _, tt := range flannels {
		podCIDR2 := ""
		if len(tt.podCIDRs) > 1 {
			podCIDR2 = tt.podCIDRs[1]
		}
		a := tt.annotations
		f.Add(tt.podCIDRs[0], podCIDR2, "1", a["backend-type"], a["backend-data"], a["backend-v6-data"], a["public-ip"], a["public-ipv6"], "", "")
	}
	f.Add("::ffff:10.0.0.0/104", "10.244.3.7/33", "-1", "\x00", "[[[", "\xff", "::ffff:192.0.2.3", "fe80::1%eth0", "x", "1.2.3.4")
	f.Fuzz(func(t *testing.T, podCIDR, podCIDR2, version, backend, data4, data6, ip4, ip6, overwrite4, overwrite6 string) {
		n := node("node-3", map[string]string{
			"backend-type": backend, "backend-data": data4, "backend-v6-data": data6, "public-ip": ip4, "public-ipv6": ip6,
			"public-ip-overwrite": overwrite4, "public-ipv6-overwrite": overwrite6,
		}, podCIDR, podCIDR2)
		n.ResourceVersion = version
		l, err := kube.Annotations{}.Lease(n)
		if err != nil {
			require.ErrorIs(t, err, podweft.ErrInvalid)
		}
		if l == nil {
			require.Error(t, err)
			return
		}
		require.NoError(t, l.Validate())
		require.False(t, l.Prefixes.IsZero())
		for p := range l.Prefixes.All() {
			require.Equal(t, p.Masked(), p)
		}
		require.True(t, l.Prefixes.V4 == netip.Prefix{} || l.Prefixes.V4.Addr().Is4())
		require.True(t, l.Prefixes.V6 == netip.Prefix{} || l.Prefixes.V6.Addr().Is6())
		require.True(t, l.Underlay.V4 == netip.Addr{} || l.Underlay.V4.Is4())
		require.True(t, l.Underlay.V6 == netip.Addr{} || l.Underlay.V6.Is6())

		delete(n.Annotations, prefix+"public-ip-overwrite")
		delete(n.Annotations, prefix+"public-ipv6-overwrite")
		patch, err := kube.Annotations{}.Patch(n, l)
		require.NoError(t, err)
		apply(n, patch)
		again, err := kube.Annotations{}.Lease(n)
		require.True(t, l.Data.Equal(again.Data), "want %s, got %s", l.Data, again.Data)
		again.Data = l.Data
		require.Equal(t, l, again)
		for _, text := range texts(err) {
			require.Contains(t, text, "spec.podCIDRs", "all that we wrote makes sense")
		}
	})
}

// apply does to the node's annotations what the API server does with the patch.
func apply(n *corev1.Node, patch map[string]*string) {
	if n.Annotations == nil {
		n.Annotations = map[string]string{}
	}
	for key, text := range patch {
		if text == nil {
			delete(n.Annotations, key)
		} else {
			n.Annotations[key] = *text
		}
	}
}
