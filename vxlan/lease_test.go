package vxlan_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/vxlan"
)

// TestLeaseDataIsFlannels holds the bytes that flannel's nodes write and read (vxlanLeaseAttrs in pkg/backend/vxlan).
func TestLeaseDataIsFlannels(t *testing.T) {
	data := vxlan.LeaseData{VNI: 1, VtepMAC: podweft.MAC{0x82, 0x4b, 0xb6, 0x2f, 0x54, 0x4e}}
	raw, err := json.Marshal(data)
	require.NoError(t, err)
	assert.Equal(t, `{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4e"}`, string(raw))
	var again vxlan.LeaseData
	require.NoError(t, json.Unmarshal(raw, &again))
	assert.Equal(t, data, again)
}

func TestPublish(t *testing.T) {
	const mac = `{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4e"}`
	before := subnet.Data{V4: json.RawMessage(mac), V6: json.RawMessage(`{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:66"}`)}
	tests := []struct {
		name    string
		network string
		node    subnet.Node
		before  subnet.Data
		v4, v6  string // empty: nothing, "new": a new MAC
		mtu     int
	}{
		{"first time", v4Only, nodeOf("192.0.2.1"), subnet.Data{}, "new", "", 1450},
		{"keeps its MAC", v4Only, nodeOf("192.0.2.1"), before, mac, "", 1450},
		{"a lease full of nonsense", v4Only, nodeOf("192.0.2.1"), subnet.Data{V4: json.RawMessage(`"nonsense"`)}, "new", "", 1450},
		{"a MAC that is none", v4Only, nodeOf("192.0.2.1"), subnet.Data{V4: json.RawMessage(`{"VtepMAC":"01:00:5e:00:00:01"}`)}, "new", "", 1450},
		{"dual stack has the smaller MTU", dualStack, nodeOf("192.0.2.1", "2001:db8::1"), before, mac, string(before.V6), 1430},
		{"dual stack over an IPv6 underlay", dualStack, nodeOf("2001:db8::1"), before, "", string(before.V6), 1430},
		{"another VNI", `{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "VNI": 7, "MTU": 9000}}`, nodeOf("192.0.2.1"), before, `{"VNI":7,"VtepMAC":"82:4b:b6:2f:54:4e"}`, "", 8950},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data, mtu, err := vxlan.Publish(tt.node, network(t, tt.network), tt.before)
			require.NoError(t, err)
			assert.Equal(t, tt.mtu, mtu)
			for want, got := range map[*string]json.RawMessage{&tt.v4: data.V4, &tt.v6: data.V6} {
				if *want == "new" {
					var d vxlan.LeaseData
					require.NoError(t, json.Unmarshal(got, &d))
					assert.True(t, d.VtepMAC.IsUnicast())
					continue
				}
				assert.Equal(t, *want, string(got))
			}
			kept, _, err := vxlan.Publish(tt.node, network(t, tt.network), data)
			require.NoError(t, err)
			assert.Equal(t, data, kept, "a restart publishes the same")
		})
	}
	t.Run("a bad configuration", func(t *testing.T) {
		_, _, err := vxlan.Publish(nodeOf("192.0.2.1"), network(t, `{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "VNI": -1}}`), subnet.Data{})
		assert.ErrorIs(t, err, podweft.ErrInvalid)
	})
}

// FuzzLeaseData gives a peer's lease any data. Either the peer is left out and reported, or it can be programmed; nobody else
// suffers, and what was read is read the same again.
func FuzzLeaseData(f *testing.F) {
	for _, s := range []string{
		`{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4e"}`, `{"VtepMAC":"82-4b-b6-2f-54-4e"}`, `{"vni":1,"vtepmac":"824b.b62f.544e"}`, `{}`, `null`, `[]`, `"x"`, ``,
		`{"VtepMAC":""}`, `{"VtepMAC":"00:00:00:00:00:00"}`, `{"VtepMAC":"ff:ff:ff:ff:ff:ff"}`, `{"VtepMAC":"0e:00:00:00:04:01"}`, `{"VtepMAC":null}`,
		`{"VNI":-1}`, `{"VNI":1e9,"VtepMAC":"82:4b:b6:2f:54:4e"}`, `{"VtepMAC":"82:4b:b6:2f:54:4e"`,
	} {
		f.Add([]byte(s))
	}
	own, three := leaseOf(1, true, false, "192.0.2.1"), leaseOf(3, true, false, "192.0.2.3")
	plan := network(f, v4Only)
	f.Fuzz(func(t *testing.T, raw []byte) {
		two := leaseOf(2, true, false, "192.0.2.2")
		two.Data.V4 = raw
		spec, problems, err := vxlan.Compile(nodeOf("192.0.2.1"), &subnet.Snapshot{Network: plan, Leases: []*subnet.Lease{own, three, two}})
		require.NoError(t, err)
		require.NoError(t, spec.Validate())
		require.Equal(t, 2, len(spec.Peers)+len(problems))
		require.Equal(t, "three", spec.Peers[len(spec.Peers)-1].Node)
		if len(problems) > 0 {
			require.ErrorIs(t, problems[0], podweft.ErrInvalid)
			require.Equal(t, "two", problems[0].Node)
			return
		}
		var d, again vxlan.LeaseData
		require.NoError(t, json.Unmarshal(raw, &d))
		require.Equal(t, d.VtepMAC, spec.Peers[0].MAC)
		encoded, err := json.Marshal(d)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(encoded, &again))
		require.Equal(t, d, again)
	})
}
