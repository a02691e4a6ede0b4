package cniplugin

import (
	"encoding/json"
	"net"
	"reflect"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What is written by hand is what the Result itself would write.
func TestResultIsJSON(t *testing.T) {
	subnet := func(text string) net.IPNet {
		ip, n, err := net.ParseCIDR(text)
		require.NoError(t, err)
		return net.IPNet{IP: ip, Mask: n.Mask}
	}
	tests := []struct {
		name   string
		result types100.Result
	}{
		{"empty", types100.Result{CNIVersion: "1.1.0"}},
		{"a pod's", types100.Result{
			CNIVersion: "1.0.0",
			Interfaces: []*types100.Interface{
				{Name: "cni0", Mac: "0a:00:00:00:00:01", Mtu: 1450},
				{Name: "eth0", Sandbox: "/run/\"net\\ns\"/<a>\u2028"},
			},
			IPs: []*types100.IPConfig{
				{Interface: types100.Int(0), Address: subnet("10.244.1.5/24"), Gateway: net.ParseIP("10.244.1.1")},
				{Address: subnet("fd00::5/64"), Gateway: net.IP{10, 0, 0, 1}},
				{Address: subnet("10.0.0.1/32")},
			},
			Routes: []*types.Route{
				{Dst: subnet("0.0.0.0/0"), GW: net.ParseIP("fe80::1")},
				{Dst: subnet("::/0"), MTU: 1, AdvMSS: 2, Priority: 3, Table: types100.Int(0), Scope: types100.Int(253)},
			},
			DNS: types.DNS{Nameservers: []string{"10.96.0.10"}, Domain: "<cluster>", Search: []string{"a", "b"}, Options: []string{"ndots:5"}},
		}},
		{"of other links", types100.Result{CNIVersion: "1.1.0", Interfaces: []*types100.Interface{{Name: "vf", SocketPath: "/s", PciID: "0"}}}},
	}
	nothing := types100.Result{Interfaces: []*types100.Interface{nil}, IPs: []*types100.IPConfig{nil}, Routes: []*types.Route{nil}}
	assert.JSONEq(t, `{"interfaces": [{}], "ips": [{}], "routes": [{}]}`, string(written(&nothing)))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want, err := json.Marshal(&tt.result)
			require.NoError(t, err)
			assert.JSONEq(t, string(want), string(written(&tt.result)))
		})
	}
}

// Names match whatever their case, and rather as they are written here.
func TestNamesInAnyCase(t *testing.T) {
	var c config
	require.NoError(t, decode([]byte(`{
		"CNIVERSION": "1.1.0", "Name": "pods", "mtu": 1400, "MTU": 1500, "unknown": {}, "IsGateway": null, "ipmasq": false,
		"RUNTIMECONFIG": {"PortMappings": [{"HostPort": 8080}], "IPS": ["10.0.0.1"]},
		"ipam": {"Type": "host-local", "SUBNET": "10.1.0.0/16", "Ranges": [[{"Subnet": "10.2.0.0/16"}]], "routes": ["10.0.0.0/8"]}
	}`), c.fields()))
	no := false
	assert.Equal(t, config{
		CNIVersion: "1.1.0", Name: "pods", MTU: 1400, IPMasq: &no,
		RuntimeConfig: runtimeConfig{PortMappings: []portMapping{{HostPort: 8080}}, IPs: []string{"10.0.0.1"}},
		IPAM: ipamConfig{
			Type: "host-local", Ranges: [][]ipRange{{{Subnet: "10.2.0.0/16"}}}, Routes: []ipRoute{{Dst: "10.0.0.0/8"}},
			ipRange: ipRange{Subnet: "10.1.0.0/16"},
		},
	}, c)
	assert.EqualError(t, decode([]byte(`{"ipam": {"Ranges": 7}}`), c.fields()),
		"ipam: ranges: json: cannot unmarshal number into Go value of type [][]cniplugin.ipRange")
	assert.Error(t, decode([]byte(`[]`), c.fields()))
	assert.NoError(t, decode([]byte(`null`), c.fields()))
}

// TestEveryFieldIsRead: a field that nobody reads would be without effect.
func TestEveryFieldIsRead(t *testing.T) {
	for _, into := range []interface{ fields() []field }{&config{}, &runtimeConfig{}, &ipamConfig{}, &bandwidth{}, &portmapConfig{}} {
		of := reflect.TypeOf(into).Elem()
		read := map[any]bool{}
		for _, f := range into.fields() {
			read[f.to] = true
			assert.NotEqual(t, "", strings.TrimSpace(f.name), of)
		}
		for i := range of.NumField() {
			if f := of.Field(i); f.IsExported() {
				assert.True(t, read[reflect.ValueOf(into).Elem().Field(i).Addr().Interface()], "%s.%s", of, f.Name)
			}
		}
	}
}
