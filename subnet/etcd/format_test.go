package etcd

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

func v4(s string) subnet.Prefixes { return subnet.Prefixes{V4: netip.MustParsePrefix(s)} }
func dual(s, six string) subnet.Prefixes {
	return subnet.Prefixes{V4: netip.MustParsePrefix(s), V6: netip.MustParsePrefix(six)}
}

const (
	vxlanData = `{"VNI":1,"VtepMAC":"0e:11:22:33:44:55"}`
	v6Data    = `{"VNI":1,"VtepMAC":"0e:66:22:33:44:55"}`
	wireguard = `{"PublicKey":"a+b/c=","Port":51820}`
)

// flannels are keys and values as flannel v0.28 writes them, and the lease that each is.
var flannels = []struct {
	name, key, value string
	want             subnet.Lease
}{
	{"vxlan", "10.244.3.0-24", `{"PublicIP":"192.0.2.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":` + vxlanData + `}`,
		subnet.Lease{Prefixes: v4("10.244.3.0/24"), Underlay: addrs("192.0.2.3", ""), Backend: "vxlan", Data: data(vxlanData, "")}},
	{"vxlan dual", "10.244.3.0-24&fd00:244:0:a::-64",
		`{"PublicIP":"192.0.2.3","PublicIPv6":"2001:db8::3","BackendType":"vxlan","BackendData":` + vxlanData + `,"BackendV6Data":` + v6Data + `}`,
		subnet.Lease{Prefixes: dual("10.244.3.0/24", "fd00:244:0:a::/64"), Underlay: addrs("192.0.2.3", "2001:db8::3"), Backend: "vxlan", Data: data(vxlanData, v6Data)}},
	{"vxlan v6-only", "0.0.0.0-0&fd00:244:0:a::-64", `{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::3","BackendType":"vxlan","BackendV6Data":` + v6Data + `}`,
		subnet.Lease{Prefixes: subnet.Prefixes{V6: netip.MustParsePrefix("fd00:244:0:a::/64")}, Underlay: addrs("", "2001:db8::3"), Backend: "vxlan", Data: data("", v6Data)}},
	{"host-gw", "10.244.3.0-24", `{"PublicIP":"192.0.2.3","PublicIPv6":null,"BackendType":"host-gw"}`,
		subnet.Lease{Prefixes: v4("10.244.3.0/24"), Underlay: addrs("192.0.2.3", ""), Backend: "host-gw"}},
	{"host-gw dual", "10.244.3.0-24&fd00:244:0:a::-64", `{"PublicIP":"192.0.2.3","PublicIPv6":"2001:db8::3","BackendType":"host-gw"}`,
		subnet.Lease{Prefixes: dual("10.244.3.0/24", "fd00:244:0:a::/64"), Underlay: addrs("192.0.2.3", "2001:db8::3"), Backend: "host-gw"}},
	{"udp", "10.244.3.0-24", `{"PublicIP":"192.0.2.3","PublicIPv6":null}`,
		subnet.Lease{Prefixes: v4("10.244.3.0/24"), Underlay: addrs("192.0.2.3", "")}},
	{"ipip", "10.244.3.0-24", `{"PublicIP":"192.0.2.3","PublicIPv6":null,"BackendType":"ipip"}`,
		subnet.Lease{Prefixes: v4("10.244.3.0/24"), Underlay: addrs("192.0.2.3", ""), Backend: "ipip"}},
	{"wireguard", "10.244.3.0-24", `{"PublicIP":"192.0.2.3","PublicIPv6":null,"BackendType":"wireguard","BackendData":` + wireguard + `}`,
		subnet.Lease{Prefixes: v4("10.244.3.0/24"), Underlay: addrs("192.0.2.3", ""), Backend: "wireguard", Data: data(wireguard, "")}},
	{"extension", "10.244.3.0-24", `{"PublicIP":"192.0.2.3","PublicIPv6":null,"BackendType":"extension","BackendData":"id \u003c7\u003e"}`,
		subnet.Lease{Prefixes: v4("10.244.3.0/24"), Underlay: addrs("192.0.2.3", ""), Backend: "extension", Data: data(`"id \u003c7\u003e"`, "")}},
}

func addrs(four, six string) (a subnet.Addrs) {
	if four != "" {
		a.V4 = netip.MustParseAddr(four)
	}
	if six != "" {
		a.V6 = netip.MustParseAddr(six)
	}
	return a
}

func data(four, six string) (d subnet.Data) {
	if four != "" {
		d.V4 = json.RawMessage(four)
	}
	if six != "" {
		d.V6 = json.RawMessage(six)
	}
	return d
}

func TestReadFlannel(t *testing.T) {
	for _, tc := range flannels {
		t.Run(tc.name, func(t *testing.T) {
			e := newEntry(tc.key, &mvccpb.KeyValue{Value: []byte(tc.value), Lease: 7, ModRevision: 42})
			require.Empty(t, e.problems)
			want := tc.want
			want.Key, want.Revision = tc.key, 42
			if want.Node = want.Underlay.V4.String(); !want.Underlay.V4.IsValid() {
				want.Node = want.Underlay.V6.String()
			}
			assert.Equal(t, &want, e.lease)
			assert.False(t, e.reservation())
		})
	}
}

// TestWriteFlannel: what we write is what flannel writes, byte for byte, and then whose it is.
func TestWriteFlannel(t *testing.T) {
	for _, tc := range flannels {
		t.Run(tc.name, func(t *testing.T) {
			assert.Equal(t, tc.key, formatName(tc.want.Prefixes))
			got, err := formatValue(&tc.want)
			require.NoError(t, err)
			assert.Equal(t, tc.value, got)

			named := tc.want
			named.Node = "node-3"
			got, err = formatValue(&named)
			require.NoError(t, err)
			assert.Equal(t, tc.value[:len(tc.value)-1]+`,"Node":"node-3"}`, got)
		})
	}
}

func TestParseName(t *testing.T) {
	for _, tc := range []struct {
		name, key string
		want      subnet.Prefixes // zero: refused
		leased    bool
	}{
		{"v4", "10.244.3.0-24", v4("10.244.3.0/24"), false},
		{"leased", "leased/10.244.3.0-24", v4("10.244.3.0/24"), true},
		{"flannel's v6-only", "0.0.0.0-24&fd00::-64", subnet.Prefixes{V6: netip.MustParsePrefix("fd00::/64")}, false},
		{"empty", "", subnet.Prefixes{}, false},
		{"text", "hello", subnet.Prefixes{}, false},
		{"octet too large", "10.244.300.0-24", subnet.Prefixes{}, false},
		{"too long", "10.244.3.0-33", subnet.Prefixes{}, false},
		{"v6 too long", "10.244.3.0-24&fd00::-129", subnet.Prefixes{}, false},
		{"v6 alone", "fd00::-64", subnet.Prefixes{}, false},
		{"something before", "x10.244.3.0-24", subnet.Prefixes{}, false},
		{"something after", "10.244.3.0-24/x", subnet.Prefixes{}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, leased, err := parseName(tc.key)
			assert.Equal(t, tc.want, got)
			assert.Equal(t, tc.leased, leased)
			if tc.want.IsZero() {
				assert.ErrorIs(t, err, podweft.ErrInvalid)
			}
		})
	}
}

func TestConfigValidate(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"nothing", Config{}, "Endpoints: are missing"},
		{"no URL", Config{Endpoints: []string{"10.0.0.1:2379"}}, "is not a URL"},
		{"negative TTL", Config{Endpoints: []string{"http://a:1"}, TTL: -1}, "TTL: -1ns is negative"},
		{"password of nobody", Config{Endpoints: []string{"http://a:1"}, Password: "x"}, "Username: is missing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := New(tc.cfg)
			require.ErrorIs(t, err, podweft.ErrInvalid)
			assert.ErrorContains(t, err, tc.want)
		})
	}
}

// FuzzEntry: whatever stands in etcd, it is a lease, a reservation or a Problem.
func FuzzEntry(f *testing.F) {
	for _, tc := range flannels {
		f.Add(tc.key, tc.value)
	}
	f.Add("10.244.3.0-24", `{"PublicIP":7}`)
	f.Add("leased/0.0.0.0-0&::ffff:1.2.3.4-128", `{"PublicIPv6":"fe80::1%eth0"}`)
	f.Fuzz(func(t *testing.T, name, text string) {
		e := newEntry(name, &mvccpb.KeyValue{Value: []byte(text), Lease: 7, ModRevision: 1})
		if e.lease == nil {
			require.NotEmpty(t, e.problems)
			return
		}
		again, err := formatValue(e.lease)
		require.NoError(t, err)
		l := &subnet.Lease{Prefixes: e.prefixes}
		_, errs := parseValue([]byte(again), l)
		require.Empty(t, errs)
		assert.Equal(t, e.lease.Underlay, l.Underlay)
		assert.True(t, e.lease.Data.Equal(l.Data))
		p, _, err := parseName(formatName(e.prefixes))
		require.NoError(t, err)
		assert.Equal(t, e.prefixes, p)
	})
}
