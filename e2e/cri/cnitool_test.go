package cri_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/testnet"
)

// TestCNITool calls every verb by the CNI project's own tool and library, also those that no runtime here calls: STATUS and GC. Other
// plugins stand behind ours.
func TestCNITool(t *testing.T) {
	need(t, "/usr/lib/cni/tuning")
	bin := plugins(t)
	tool := filepath.Join(t.TempDir(), "cnitool")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", tool, "github.com/containernetworking/cni/cnitool").CombinedOutput()
	require.NoError(t, err, string(out))
	require.NoError(t, os.MkdirAll("/var/lib/cni", 0o700)) // where the library keeps what it was told
	require.NoError(t, unix.Mount("cnitool", "/var/lib/cni", "tmpfs", 0, ""))
	t.Cleanup(func() { assert.NoError(t, unix.Unmount("/var/lib/cni", 0)) })

	tests := []struct {
		name, version string
		plugins       []any
	}{
		{"bridged", "1.1.0", []any{map[string]any{"type": "podweft-cni"}}},
		{"routed", "1.1.0", []any{map[string]any{"type": "podweft-cni", "mode": "ptp"}}},
		{"chained", "1.1.0", []any{
			map[string]any{"type": "flannel", "delegate": map[string]any{"isDefaultGateway": true}}, map[string]any{"type": "portmap"},
		}},
		{"reference", "1.0.0", []any{ // Debian's know none after it
			map[string]any{"type": "podweft-cni"},
			map[string]any{"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000},
			map[string]any{"type": "firewall"},
			map[string]any{"type": "tuning", "mtu": 1400, "mac": "02:00:00:00:00:99", "sysctl": map[string]string{"net.core.somaxconn": "500"}},
			map[string]any{"type": "portmap"},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := cluster(t)[0]
			for _, p := range tt.plugins {
				p := p.(map[string]any)
				p["stateDir"], p["subnetFile"], p["dataDir"] = n.dir+"/state", n.dir+"/subnet.env", n.dir+"/flannel"
				p["capabilities"] = map[string]bool{"portMappings": true}
			}
			list, err := json.Marshal(map[string]any{"cniVersion": tt.version, "name": tt.name, "plugins": tt.plugins})
			require.NoError(t, err)
			conf := filepath.Dir(n.write(t, tt.name+"/10.conflist", string(list)))
			verb := func(verb string, pod *testnet.Node) (string, error) {
				cmd := n.Command(t.Context(), "env", "CNI_PATH="+bin+":/usr/lib/cni", "NETCONFPATH="+conf,
					`CAP_ARGS={"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}`, tool, verb, tt.name, pod.NetNS())
				out, err := cmd.CombinedOutput()
				return string(out), err
			}
			before := n.links(t)
			pod, other := testnet.NewNode(t, "pod"), testnet.NewNode(t, "other")
			does := func(what string, pod *testnet.Node) string {
				t.Helper()
				out, err := verb(what, pod)
				require.NoError(t, err, "%s: %s", what, out)
				return out
			}
			does("status", pod)
			var added struct {
				IPs []struct{ Address netip.Prefix }
			}
			require.NoError(t, json.Unmarshal([]byte(does("add", pod)), &added))
			does("check", pod)
			require.Len(t, added.IPs, 2)
			for _, ip := range added.IPs {
				_, err := n.Ping(t.Context(), ip.Address.Addr())
				require.NoError(t, err)
			}
			require.NoError(t, pod.SetDown("eth0"))
			out, err := verb("check", pod)
			require.Error(t, err)
			assert.Contains(t, out, "eth0")
			does("del", pod)
			does("del", pod)

			does("add", pod)
			does("gc", other) // the tool names no pod as valid
			assert.Subset(t, append(before, "cni0"), n.links(t))
			does("status", pod)
		})
	}
}
