package calico_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/examples/calico"
)

// TestReflectors: nodes speak to the reflector alone, with signed sessions, and know each other all the same; by flags, and by the objects
// that Calico has for it.
func TestReflectors(t *testing.T) {
	t.Parallel()
	objects := filepath.Join(t.TempDir(), "calico.yaml")
	require.NoError(t, os.WriteFile(objects, []byte(`{kind: BGPConfiguration, metadata: {name: default}, spec: {nodeToNodeMeshEnabled: false, bindMode: NodeIP}}
---
{kind: BGPPeer, metadata: {name: reflectors}, spec: {nodeSelector: all(), peerSelector: route-reflector == 'true', password: swordfish, ttlSecurity: 2}}
---
{kind: Node, metadata: {name: node1, labels: {route-reflector: "true"}}, spec: {bgp: {routeReflectorClusterID: 10.0.0.1}}}
`), 0o600))
	for name, how := range map[string]struct{ all, reflector string }{
		"flags":   {"--bgp-mesh=reflectors --bgp-password=swordfish", "--cluster-id=10.0.0.1"},
		"objects": {"--config=" + objects, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			agents := make([]*process, 3)
			for i := range agents {
				flags := append(strings.Fields(how.all), "--ipv4-pool-vxlan=CrossSubnet", "--ipv6-pool-vxlan=CrossSubnet")
				if i == 0 {
					flags = append(flags, strings.Fields(how.reflector)...)
				}
				agents[i] = w.launch(t, w.Nodes()[i], flags...)
			}
			for i, a := range agents {
				want := 1
				if i == 0 {
					want = 2
				}
				s := a.wait(t, "the others' blocks", func(s calico.Status) bool { return len(s.Routes) == 4 && s.BGP.Established == want })
				assert.Len(t, s.BGP.Peers, want)
				for _, r := range s.Routes {
					assert.NotEqual(t, "none", r.Way, r.String())
				}
			}
		})
	}
}

// TestAbsentPeer: a peer that is not there is said to be down, in the status and in the metrics, and keeps nobody from being ready.
func TestAbsentPeer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	objects := filepath.Join(t.TempDir(), "calico.yaml")
	require.NoError(t, os.WriteFile(objects, []byte("{kind: BGPPeer, metadata: {name: absent}, spec: {peerIP: 192.0.2.99, asNumber: 64600}}"), 0o600))
	flags := []string{"--ipv4-pool-vxlan=CrossSubnet", "--ipv6-pool-vxlan=CrossSubnet"} // whose links have addresses of blocks
	one := w.launch(t, w.Nodes()[0], append(flags, "--config="+objects)...)
	w.launch(t, w.Nodes()[1], flags...)
	s := one.wait(t, "the other's blocks", func(s calico.Status) bool { return len(s.Routes) == 2 && s.BGP.Established == 1 })
	require.Len(t, s.BGP.Peers, 2)
	for _, p := range s.BGP.Peers {
		assert.Equal(t, p.Name == "node2", p.State == bgp.Established, "%+v", p)
	}
	code, text := one.get(t, "/readyz")
	assert.Equal(t, http.StatusOK, code, text)
	_, text = one.get(t, "/metrics")
	for _, line := range []string{
		"bgp_peers 2", "bgp_sessions 1", "routes 2", `bgp_peer_up{name="absent",peer="192.0.2.99"} 0`, `bgp_peer_up{name="node2",peer="192.0.2.2"} 1`,
		`bgp_peer_paths{name="absent",peer="192.0.2.99"} 0`, `bgp_peer_paths{name="node2",peer="192.0.2.2"} 2`,
	} {
		assert.Contains(t, text, "podweft_calico_"+line+"\n")
	}
}

// get asks the agent over its socket.
func (p *process) get(t testing.TB, path string) (code int, text string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(p.w.dir, p.node.Name, "calico-"+calico.DefaultNetwork+".sock"))
	}}}
	answer, err := client.Get("http://agent" + path)
	require.NoError(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, string(body)
}
