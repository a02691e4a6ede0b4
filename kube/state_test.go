package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

func storeOf(t *testing.T, conf string) *Store {
	t.Helper()
	network, err := subnet.ParseNetwork([]byte(conf))
	require.NoError(t, err)
	s, err := New(Config{Client: &rest.Config{Host: "https://192.0.2.1"}, Network: network})
	require.NoError(t, err)
	return s
}

const (
	oneFamily    = `{"Network": "10.244.0.0/16"}`
	bothFamilies = `{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48"}`
)

func leased(name, version, publicIP string, podCIDRs ...string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: version, Annotations: map[string]string{
			DefaultPrefix + "/kube-subnet-manager": "true", DefaultPrefix + "/backend-type": "host-gw", DefaultPrefix + "/public-ip": publicIP,
		}},
		Spec: corev1.NodeSpec{PodCIDRs: podCIDRs},
	}
}

func TestConfig(t *testing.T) {
	client := &rest.Config{Host: "https://192.0.2.1"}
	for _, tt := range []struct {
		name string
		cfg  Config
		want string // empty: none
	}{
		{"nothing", Config{}, "Client: is missing: say how the API server is reached"},
		{"negative", Config{Client: client, Timeout: -1}, "Timeout: -1ns is negative: leave it zero for fifteen seconds"},
		{"bad network", Config{Client: client, Network: &subnet.Network{}},
			`Network: is missing: give the pods' addresses, such as "10.244.0.0/16", or enable IPv6 and give IPv6Network`},
		{"sound", Config{Client: client}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(tt.cfg)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, podweft.ErrInvalid)
			assert.EqualError(t, err, tt.want)
		})
	}
}

func TestGiven(t *testing.T) {
	for _, tt := range []struct {
		name     string
		conf     string
		podCIDRs []string
		want     string
		sentinel error
		problem  string
	}{
		{name: "one family", conf: oneFamily, podCIDRs: []string{"10.244.3.0/24"}, want: "10.244.3.0/24"},
		{name: "another length than the network's", conf: oneFamily, podCIDRs: []string{"10.244.3.0/26"}, want: "10.244.3.0/26"},
		{name: "both", conf: bothFamilies, podCIDRs: []string{"fd00:244:0:3::/64", "10.244.3.0/24"}, want: "10.244.3.0/24, fd00:244:0:3::/64"},
		{name: "a cluster of both and a network of one", conf: oneFamily, podCIDRs: []string{"10.244.3.0/24", "fd00:244:0:3::/64"}, want: "10.244.3.0/24"},
		{name: "none yet", conf: oneFamily, sentinel: ErrNoSubnet, problem: "node n has no spec.podCIDRs"},
		{name: "outside", conf: oneFamily, podCIDRs: []string{"10.9.3.0/24"}, sentinel: podweft.ErrInvalid,
			problem: "spec.podCIDRs: 10.9.3.0/24 lies outside the network 10.244.0.0/16"},
		{name: "wider than the network", conf: oneFamily, podCIDRs: []string{"10.244.0.0/15"}, sentinel: podweft.ErrInvalid, problem: "lies outside"},
		{name: "a family too few", conf: bothFamilies, podCIDRs: []string{"10.244.3.0/24"}, sentinel: podweft.ErrInvalid, problem: "have no IPv6 subnet"},
		{name: "nonsense", conf: oneFamily, podCIDRs: []string{"10.244.3"}, sentinel: podweft.ErrInvalid, problem: `"10.244.3" is not a subnet`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := storeOf(t, tt.conf).given(leased("n", "1", "", tt.podCIDRs...))
			if tt.sentinel != nil {
				require.ErrorIs(t, err, tt.sentinel)
				assert.ErrorContains(t, err, tt.problem)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got.String())
		})
	}
}

// TestEvents: what a watch brings is seen once, in order, and nothing that is not about leases.
func TestEvents(t *testing.T) {
	st := &state{Store: storeOf(t, bothFamilies)}
	apply := func(kind watch.EventType, node *corev1.Node) bool {
		t.Helper()
		news, err := st.apply(watch.Event{Type: kind, Object: node})
		require.NoError(t, err)
		require.Equal(t, node.ResourceVersion, st.version)
		return news
	}
	text := func() (all []string) {
		for _, l := range st.snapshot().Leases {
			all = append(all, fmt.Sprintf("%s @%d", l, l.Revision))
		}
		return all
	}
	assert.True(t, apply(watch.Added, leased("b", "2", "192.0.2.2", "10.244.2.0/24")))
	assert.True(t, apply(watch.Added, leased("a", "3", "192.0.2.1", "10.244.1.0/24")))
	windows := leased("w", "4", "", "10.244.9.0/24")
	clear(windows.Annotations)
	assert.False(t, apply(watch.Added, windows), "nobody manages it")
	assert.Equal(t, []string{"10.244.1.0/24 of a via 192.0.2.1 @3", "10.244.2.0/24 of b via 192.0.2.2 @2"}, text())
	before := st.snapshot()

	beat := leased("b", "5", "192.0.2.2", "10.244.2.0/24")
	beat.Status.NodeInfo.KernelVersion = "6.18"
	assert.False(t, apply(watch.Modified, beat), "a kubelet's word is no change")
	assert.Same(t, before.Leases[1], st.snapshot().Leases[1])
	assert.EqualValues(t, 5, st.snapshot().Revision)
	assert.False(t, apply(watch.Bookmark, &corev1.Node{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "6"}}))

	assert.True(t, apply(watch.Modified, leased("b", "7", "192.0.2.22", "10.244.2.0/24")))
	assert.Equal(t, "192.0.2.2", before.Leases[1].Underlay.String(), "an old snapshot stays as it was")
	v6 := leased("b", "8", "192.0.2.22", "10.244.2.0/24", "fd00:244:0:2::/64")
	v6.Annotations[DefaultPrefix+"/public-ipv6"] = "2001:db8::2"
	assert.True(t, apply(watch.Modified, v6), "one family alone")
	v6.ResourceVersion, v6.Annotations = "9", map[string]string{DefaultPrefix + "/kube-subnet-manager": "true", DefaultPrefix + "/public-ipv6": "x"}
	assert.True(t, apply(watch.Modified, v6), "a hostile agent")
	require.Len(t, st.snapshot().Problems, 1)
	assert.ErrorIs(t, st.snapshot().Problems[0], podweft.ErrInvalid)
	assert.True(t, apply(watch.Modified, leased("b", "10", "192.0.2.2")), "no subnet at all")
	assert.Equal(t, []string{"10.244.1.0/24 of a via 192.0.2.1 @3"}, text())

	assert.True(t, apply(watch.Deleted, leased("b", "11", "192.0.2.2")))
	assert.False(t, apply(watch.Deleted, leased("b", "12", "")), "gone already")
	released := leased("a", "13", "", "10.244.1.0/24")
	clear(released.Annotations)
	assert.True(t, apply(watch.Modified, released))
	assert.Empty(t, st.snapshot().Leases)
	assert.Empty(t, st.snapshot().Problems)
	assert.EqualValues(t, 13, st.snapshot().Revision)
}

func TestBadEvents(t *testing.T) {
	st := &state{Store: storeOf(t, oneFamily)}
	gone := apierrors.NewResourceExpired("too old").Status()
	_, err := st.apply(watch.Event{Type: watch.Error, Object: &gone})
	assert.True(t, isGone(fmt.Errorf("watch nodes: %w", err)), "%v", err)
	_, err = st.apply(watch.Event{Type: watch.Added, Object: &corev1.Pod{}})
	assert.ErrorContains(t, err, "sent a *v1.Pod")
	_, err = st.apply(watch.Event{Type: watch.Added, Object: leased("a", "one", "192.0.2.1", "10.244.1.0/24")})
	assert.ErrorContains(t, err, `resourceVersion "one" is no number`)
	assert.Empty(t, st.snapshot().Leases)
}

// FuzzEvents: whatever nodes say, a snapshot is sorted, each lease is one that a driver can be given, and what does not change stays
// the same lease.
func FuzzEvents(f *testing.F) {
	f.Add("10.244.1.0/24", `{"VNI":1}`, "192.0.2.1", "true", true)
	f.Add("10.244.1.0/33", `{`, "::ffff:1.2.3.4", "yes", false)
	f.Fuzz(func(t *testing.T, podCIDR, data, publicIP, managed string, both bool) {
		conf := oneFamily
		if both {
			conf = bothFamilies
		}
		st := &state{Store: storeOf(t, conf)}
		for i, name := range []string{"c", "a", "b"} {
			n := leased(name, fmt.Sprint(i+1), publicIP, podCIDR)
			n.Annotations[DefaultPrefix+"/kube-subnet-manager"] = managed
			n.Annotations[DefaultPrefix+"/backend-data"] = data
			first := st.put(n)
			assert.False(t, st.put(n), "the same again is no news")
			assert.False(t, first && managed != "true")
		}
		s := st.snapshot()
		last := ""
		for _, l := range s.Leases {
			require.Less(t, last, l.Key)
			last = l.Key
			require.NoError(t, l.Validate())
			require.False(t, l.Prefixes.IsZero())
			if len(l.Data.V4) > 0 {
				require.True(t, json.Valid(l.Data.V4))
			}
		}
		for _, p := range s.Problems {
			require.False(t, errors.Is(p, ErrNotManaged))
		}
	})
}
