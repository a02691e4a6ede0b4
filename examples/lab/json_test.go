package main

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// runJSON decodes what the lab prints: one document and nothing else.
func runJSON(t *testing.T, p *program) (r report, status int) {
	t.Helper()
	status = p.run(t)
	d := json.NewDecoder(&p.stdout)
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&r), "%s", &p.stderr)
	assert.False(t, d.More(), "one document only")
	return r, status
}

func TestJSON(t *testing.T) {
	tests := []struct {
		name      string
		args      []string
		nodes     int
		pods      int
		sent      int
		kinds     []string // of the trace
		addresses int      // of a pod
	}{
		{
			name: "as it comes", nodes: 3, pods: 6, sent: 6*5*2 + 6*2, addresses: 2,
			kinds: []string{kindRoute, kindNeighbour, kindFDB, kindLink},
		},
		{
			name: "host-gw, IPv4, five nodes", args: []string{"--nodes=5", "--pods=1", "--backend=host-gw", "--net-conf", writeFile(t, tutorial)},
			nodes: 5, pods: 5, sent: 5*4 + 5, addresses: 1, kinds: []string{kindRoute, kindNeighbour, kindFDB, kindLink},
		},
		{name: "one pod", args: []string{"--nodes=1", "--pods=1"}, nodes: 1, pods: 1, sent: 2, addresses: 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newProgram(t, append(tt.args, "--json")...)
			r, status := runJSON(t, p)
			require.Equal(t, exitGood, status, "%s", &p.stderr)
			assert.Empty(t, p.stderr.String())
			assert.Len(t, r.Nodes, tt.nodes)
			assert.Len(t, r.Leases, tt.nodes)
			assert.Len(t, r.Pods, tt.pods)
			assert.Equal(t, matrixReport{Sent: tt.sent, Received: tt.sent, Failed: []pingReport{}}, r.Matrix)
			r.checkPods(t, tt.addresses)
			r.checkTrace(t, tt.kinds)
			for _, n := range r.Nodes {
				assert.Equal(t, tt.nodes-1, n.Peers, n.Name)
				assert.Positive(t, n.PodMTU, n.Name)
			}
			parts := r.Timings.Underlay + r.Timings.Join + r.Timings.Pods + r.Timings.Matrix + r.Timings.Trace
			assert.LessOrEqual(t, parts, r.Timings.Total+1)
			assert.Positive(t, r.Timings.Join)
			p.nothingLeft(t)
		})
	}
}

// checkPods: everybody has an address of its own, in the lease of its node.
func (r report) checkPods(t *testing.T, addresses int) {
	t.Helper()
	seen := map[netip.Addr]string{}
	for _, p := range r.Pods {
		assert.Len(t, p.Addresses, addresses, p.Name)
		for _, a := range p.Addresses {
			assert.Empty(t, seen[a], "%s has the address of", p.Name)
			seen[a] = p.Name
			inside := false
			for _, l := range r.Leases {
				for prefix := range l.Prefixes.All() {
					inside = inside || l.Node == p.Node && prefix.Contains(a)
				}
			}
			assert.True(t, inside, "%s of %s is in no lease of %s", a, p.Name, p.Node)
		}
	}
}

func (r report) checkTrace(t *testing.T, kinds []string) {
	t.Helper()
	if kinds == nil {
		assert.Empty(t, r.Trace)
		return
	}
	require.NotEmpty(t, r.Trace)
	assert.Equal(t, r.Pods[0].Name, r.Trace[0].At)
	assert.Equal(t, r.Pods[len(r.Pods)-1].Name, r.Trace[len(r.Trace)-1].At)
	found := map[string]bool{}
	for _, h := range r.Trace {
		found[h.Kind] = true
		assert.Equal(t, h.Kind == kindLink, h.Seen != "", "%+v", h)
		assert.NotEmpty(t, h.Entry)
		assert.NotEmpty(t, h.Why)
	}
	for _, k := range kinds {
		assert.True(t, found[k], k)
	}
}

// The machine outside is in the middle of this pod network: nothing is masqueraded on the way there, and no answer finds
// its way back.
func TestLostPingsAreTold(t *testing.T) {
	conf := writeFile(t, `{"Network": "203.0.112.0/20", "SubnetMin": "203.0.120.0", "Backend": {"Type": "vxlan"}}`)
	p := newProgram(t, "--json", "--net-conf", conf)
	r, status := runJSON(t, p)
	assert.Equal(t, exitFailed, status)
	assert.Equal(t, 36, r.Matrix.Sent)
	assert.Equal(t, 30, r.Matrix.Received)
	require.Len(t, r.Matrix.Failed, 6)
	for _, f := range r.Matrix.Failed {
		assert.Equal(t, outside, f.To)
		assert.Equal(t, "IPv4", f.Family)
		assert.NotEmpty(t, f.Error)
	}
	assert.Contains(t, p.stderr.String(), "6 of 36 pings were not answered, the first from pod1a to outside")

	p = newProgram(t, "--net-conf", conf)
	assert.Equal(t, exitFailed, p.run(t))
	assert.Contains(t, p.stdout.String(), "✗ 30 of 36 pings answered")
	p.nothingLeft(t)
}

func TestTenantsAsData(t *testing.T) {
	r, status := runJSON(t, newProgram(t, "--json", "--tenants", "2"))
	require.Equal(t, exitGood, status)
	require.Len(t, r.Tenants, 2)
	red, blue := r.Tenants[0], r.Tenants[1]
	assert.NotEqual(t, red.VNI, blue.VNI)
	assert.NotEqual(t, red.Table, blue.Table)
	require.Len(t, red.Pods, 6)
	require.Len(t, blue.Pods, 6)
	for i := range red.Pods {
		assert.Equal(t, red.Pods[i].Addresses, blue.Pods[i].Addresses)
	}
	for _, one := range r.Tenants {
		assert.Equal(t, matrixReport{Sent: 60, Received: 60, Failed: []pingReport{}}, one.Matrix)
		assert.Equal(t, []string{one.Name}, one.SeenBy)
	}
}
