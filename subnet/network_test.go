package subnet_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

func rangeOf(network string, length int, first, last string) subnet.Range {
	return subnet.Range{
		Network: netip.MustParsePrefix(network), SubnetLen: length,
		Min: netip.MustParseAddr(first), Max: netip.MustParseAddr(last),
	}
}

func TestParseNetwork(t *testing.T) {
	vxlan := subnet.Backend{Type: "vxlan", Config: json.RawMessage(`{"Type":"vxlan"}`)}
	usual := rangeOf("10.244.0.0/16", 24, "10.244.1.0", "10.244.255.0")
	usual6 := rangeOf("fd00:244::/48", 64, "fd00:244:0:1::", "fd00:244:0:ffff::")
	for _, c := range []struct {
		name string
		conf string
		want subnet.Network
	}{
		{
			name: "the tutorials'",
			conf: `{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}`,
			want: subnet.Network{V4: usual, Backend: vxlan},
		},
		{
			name: "no backend",
			conf: `{"Network": "10.244.0.0/16"}`,
			want: subnet.Network{V4: usual, Backend: vxlan},
		},
		{
			name: "null backend",
			conf: `{"Network": "10.244.0.0/16", "Backend": null}`,
			want: subnet.Network{V4: usual, Backend: vxlan},
		},
		{
			name: "backend's own fields, type in any case",
			conf: `{"Network": "10.244.0.0/16", "Backend": {"VNI": 7, "type": "Host-GW", "DirectRouting": true}}`,
			want: subnet.Network{V4: usual, Backend: subnet.Backend{Type: "host-gw", Config: json.RawMessage(`{"VNI":7,"type":"Host-GW","DirectRouting":true}`)}},
		},
		{
			name: "names in any case, unknown ones ignored",
			conf: `{"network": "10.244.0.0/16", "SUBNETLEN": 26, "Comment": [1, 2], "enablenftables": true}`,
			want: subnet.Network{V4: rangeOf("10.244.0.0/16", 26, "10.244.0.64", "10.244.255.192"), NFTables: true, Backend: vxlan},
		},
		{
			name: "dual-stack",
			conf: `{"EnableIPv6": true, "Network": "10.244.0.0/16", "IPv6Network": "fd00:244::/48"}`,
			want: subnet.Network{V4: usual, V6: usual6, Backend: vxlan},
		},
		{
			name: "v6-only",
			conf: `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:244::/48"}`,
			want: subnet.Network{V6: usual6, Backend: vxlan},
		},
		{
			name: "what is off is not looked at",
			conf: `{"EnableIPv4": true, "Network": "10.244.0.0/16", "IPv6Network": "nonsense", "IPv6SubnetLen": "x"}`,
			want: subnet.Network{V4: usual, Backend: vxlan},
		},
		{
			name: "host bits are cleared, the zero address is no bound",
			conf: `{"Network": "10.244.3.4/16", "SubnetMin": "0.0.0.0", "SubnetMax": "10.244.20.0", "SubnetLen": 0}`,
			want: subnet.Network{V4: rangeOf("10.244.0.0/16", 24, "10.244.1.0", "10.244.20.0"), Backend: vxlan},
		},
		{
			name: "smaller than four /24",
			conf: `{"Network": "10.244.0.0/23"}`,
			want: subnet.Network{V4: rangeOf("10.244.0.0/23", 25, "10.244.0.128", "10.244.1.128"), Backend: vxlan},
		},
		{
			name: "just four /24",
			conf: `{"Network": "10.244.0.0/22"}`,
			want: subnet.Network{V4: rangeOf("10.244.0.0/22", 24, "10.244.1.0", "10.244.3.0"), Backend: vxlan},
		},
		{
			name: "smallest",
			conf: `{"EnableIPv6": true, "Network": "10.244.0.0/28", "IPv6Network": "fd00::/124"}`,
			want: subnet.Network{
				V4: rangeOf("10.244.0.0/28", 30, "10.244.0.4", "10.244.0.12"),
				V6: rangeOf("fd00::/124", 126, "fd00::4", "fd00::c"), Backend: vxlan,
			},
		},
		{
			name: "the very end of the addresses",
			conf: `{"EnableIPv6": true, "Network": "255.255.0.0/16", "IPv6Network": "ffff:ffff:ffff::/48"}`,
			want: subnet.Network{
				V4: rangeOf("255.255.0.0/16", 24, "255.255.1.0", "255.255.255.0"),
				V6: rangeOf("ffff:ffff:ffff::/48", 64, "ffff:ffff:ffff:1::", "ffff:ffff:ffff:ffff::"), Backend: vxlan,
			},
		},
		{
			name: "everything",
			conf: `{"EnableIPv6": true, "EnableNFTables": true, "Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0",
				"SubnetMax": "10.99.0.0", "IPv6Network": "fd00::/48", "IPv6SubnetLen": 60, "IPv6SubnetMin": "fd00:0:0:10::",
				"IPv6SubnetMax": "fd00:0:0:100::", "Backend": {"Type": "udp", "Port": 7890}}`,
			want: subnet.Network{
				V4: rangeOf("10.0.0.0/8", 20, "10.10.0.0", "10.99.0.0"), V6: rangeOf("fd00::/48", 60, "fd00:0:0:10::", "fd00:0:0:100::"),
				NFTables: true, Backend: subnet.Backend{Type: "udp", Config: json.RawMessage(`{"Type":"udp","Port":7890}`)},
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := subnet.ParseNetwork([]byte(c.conf))
			require.NoError(t, err)
			assert.Equal(t, &c.want, got)

			text, err := json.Marshal(got)
			require.NoError(t, err)
			again, err := subnet.ParseNetwork(text)
			require.NoError(t, err, "%s", text)
			assert.Equal(t, got, again, "%s", text)
			assert.True(t, got.Equal(again))
		})
	}
}

func TestParseNetworkErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		conf string
		want []string // every problem, in order
	}{
		{"empty", ``, []string{`net-conf.json line 1: is not a JSON object: unexpected end of JSON input`}},
		{"syntax", "{\n  \"Network\": \"10.244.0.0/16\",\n}", []string{`net-conf.json line 3: is not a JSON object: invalid character '}' looking for beginning of object key string`}},
		{"array", `[]`, []string{`net-conf.json: is not a JSON object: json: cannot unmarshal array into Go value of type subnet.networkJSON`}},
		{"nothing", `{}`, []string{`Network: is missing: give the pods' IPv4 addresses, such as "10.244.0.0/16", or turn IPv4 off`}},
		{"null", `null`, []string{`Network: is missing: give the pods' IPv4 addresses, such as "10.244.0.0/16", or turn IPv4 off`}},
		{"no IPv6Network", `{"EnableIPv6": true, "Network": "10.244.0.0/16"}`, []string{`IPv6Network: is missing: give the pods' IPv6 addresses, such as "fd00:244::/48", or turn IPv6 off`}},
		{"both off", `{"EnableIPv4": false, "Network": "10.244.0.0/16"}`, []string{`EnableIPv4: false leaves no family on: enable IPv4 or IPv6`}},
		{"no CIDR", `{"Network": "10.244.0.0"}`, []string{`Network: "10.244.0.0" is not a CIDR: write "10.244.0.0/16"`}},
		{"other family", `{"Network": "fd00::/48"}`, []string{`Network: fd00::/48 is not an IPv4 network: write "10.244.0.0/16"`}},
		{"IPv4 in IPv6 clothes", `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "::ffff:10.0.0.0/104"}`, []string{`IPv6Network: ::ffff:10.0.0.0/104 is not an IPv6 network: write "fd00:244::/48"`}},
		{"too small", `{"Network": "10.244.0.0/29"}`, []string{`Network: 10.244.0.0/29 is too small to be divided among nodes: use /28 or larger`}},
		{"too small in IPv6", `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00::/125"}`, []string{`IPv6Network: fd00::/125 is too small to be divided among nodes: use /124 or larger`}},
		{"SubnetLen too long", `{"Network": "10.244.0.0/16", "SubnetLen": 31}`, []string{`SubnetLen: 31 leaves a node no room for pods: use 30 at most`}},
		{"SubnetLen too short", `{"Network": "10.244.0.0/16", "SubnetLen": 17}`, []string{`SubnetLen: 17 makes fewer than four subnets of 10.244.0.0/16: use 18 at least`}},
		{"SubnetLen negative", `{"Network": "10.244.0.0/16", "SubnetLen": -1}`, []string{`SubnetLen: -1 leaves a node no room for pods: use 30 at most`}},
		{"SubnetLen as text", `{"Network": "10.244.0.0/16", "SubnetLen": "24"}`, []string{`SubnetLen: "24" is not a number: write the length of a node's subnet, such as 24`}},
		{"SubnetMin elsewhere", `{"Network": "10.244.0.0/16", "SubnetMin": "10.9.0.0"}`, []string{`SubnetMin: 10.9.0.0 lies outside the network 10.244.0.0/16`}},
		{"SubnetMax in between", `{"Network": "10.244.0.0/16", "SubnetMax": "10.244.9.1"}`, []string{`SubnetMax: 10.244.9.1 is not the address of a /24 subnet: write 10.244.9.0`}},
		{"SubnetMin after SubnetMax", `{"Network": "10.244.0.0/16", "SubnetMin": "10.244.9.0", "SubnetMax": "10.244.8.0"}`, []string{`SubnetMin: 10.244.9.0 comes after SubnetMax 10.244.8.0: exchange them`}},
		{"IPv6SubnetMin of IPv4", `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00::/48", "IPv6SubnetMin": "10.0.0.0"}`, []string{`IPv6SubnetMin: 10.0.0.0 lies outside the network fd00::/48`}},
		{"backend is text", `{"Network": "10.244.0.0/16", "Backend": "vxlan"}`, []string{`Backend: "vxlan" is not a backend: write an object with a Type, such as {"Type": "vxlan"}`}},
		{"backend without a type", `{"Network": "10.244.0.0/16", "Backend": {"VNI": 1}}`, []string{`Backend.Type: is missing: name a backend, such as "vxlan" or "host-gw"`}},
		{"all at once", `{"EnableIPv6": 1, "EnableNFTables": "no", "Network": "10.244.0.0/16", "SubnetLen": 40, "Backend": {}}`, []string{
			`EnableIPv6: 1 is not true or false`,
			`EnableNFTables: "no" is not true or false`,
			`SubnetLen: 40 leaves a node no room for pods: use 30 at most`,
			`Backend.Type: is missing: name a backend, such as "vxlan" or "host-gw"`,
		}},
		{"one of each bound", `{"Network": "10.244.0.0/16", "SubnetMin": "10.9.0.0", "SubnetMax": true, "Backend": 3}`, []string{
			`SubnetMax: true is not an IPv4 address`,
			`Backend: 3 is not a backend: write an object with a Type, such as {"Type": "vxlan"}`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := subnet.ParseNetwork([]byte(c.conf))
			require.ErrorIs(t, err, podweft.ErrInvalid)
			assert.Equal(t, c.want, strings.Split(err.Error(), "\n"))
			var field *podweft.FieldError
			assert.ErrorAs(t, err, &field)
		})
	}
}

// TestNetworkByHand: a Network need not come from JSON, and has the same defaults and checks.
func TestNetworkByHand(t *testing.T) {
	byHand := &subnet.Network{V4: subnet.Range{Network: netip.MustParsePrefix("10.244.0.0/16")}, Backend: subnet.Backend{Type: "VXLAN"}}
	require.NoError(t, byHand.Validate())
	parsed := network(t, `{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}`)
	text, err := json.Marshal(byHand)
	require.NoError(t, err)
	assert.JSONEq(t, `{"Network":"10.244.0.0/16","SubnetLen":24,"SubnetMin":"10.244.1.0","SubnetMax":"10.244.255.0","Backend":{"Type":"VXLAN"}}`, string(text))
	assert.Equal(t, slices.Collect(parsed.V4.All()), slices.Collect(byHand.V4.All()))

	for _, c := range []struct {
		name string
		n    subnet.Network
		want string
	}{
		{"zero", subnet.Network{}, "Network: is missing"},
		{"host bits", subnet.Network{V4: subnet.Range{Network: netip.MustParsePrefix("10.244.1.0/16")}}, "Network: 10.244.1.0/16 has host bits set: write 10.244.0.0/16"},
		{"families exchanged", subnet.Network{V6: subnet.Range{Network: netip.MustParsePrefix("10.244.0.0/16")}}, "IPv6Network: 10.244.0.0/16 is not an IPv6 network"},
		{"length alone", subnet.Network{V4: subnet.Range{SubnetLen: 24}}, "Network: invalid Prefix is not an IPv4 network"},
		{"two types", subnet.Network{V4: byHand.V4, Backend: subnet.Backend{Type: "udp", Config: json.RawMessage(`{"Type":"vxlan"}`)}}, "Backend.Type: udp is not the Type in Backend.Config"},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.ErrorContains(t, c.n.Validate(), c.want)
			_, err := json.Marshal(&c.n)
			assert.ErrorContains(t, err, c.want)
			_, err = c.n.Pick(nil, func(func(subnet.Prefixes) bool) {})
			assert.ErrorIs(t, err, podweft.ErrInvalid)
		})
	}
}

func TestNetworkJSONField(t *testing.T) {
	var doc struct{ Conf *subnet.Network }
	require.NoError(t, json.Unmarshal([]byte(`{"Conf": {"Network": "10.244.0.0/16"}}`), &doc))
	assert.Equal(t, network(t, `{"Network": "10.244.0.0/16"}`), doc.Conf)
	require.ErrorIs(t, json.Unmarshal([]byte(`{"Conf": {"Network": 1}}`), &doc), podweft.ErrInvalid)
}

func FuzzParseNetwork(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*.json")
	require.NoError(f, err)
	require.NotEmpty(f, seeds)
	for _, name := range seeds {
		text, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(text)
	}
	f.Add([]byte(`{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "::/0", "IPv6SubnetLen": 126}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := subnet.ParseNetwork(data)
		if err != nil {
			require.ErrorIs(t, err, podweft.ErrInvalid)
			return
		}
		require.NoError(t, n.Validate())
		text, err := json.Marshal(n)
		require.NoError(t, err)
		again, err := subnet.ParseNetwork(text)
		require.NoError(t, err, "%s", text)
		require.True(t, n.Equal(again), "%s", text)
		require.Equal(t, n.V4, again.V4)
		require.Equal(t, n.V6, again.V6)
		picked, err := n.Pick(nil, func(func(subnet.Prefixes) bool) {})
		require.NoError(t, err)
		require.True(t, n.Fits(picked), "%s of %s", picked, text)
	})
}
