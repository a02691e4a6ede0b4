package cniplugin_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/testnet"
)

// TestHostLocalAsAForeigner: the reference's host-local by another name, which this package does not take for itself, gives the
// addresses, and is asked about them. Package cnitest's rules C2, S1 and G1 try what it does not serve yet.
func TestHostLocalAsAForeigner(t *testing.T) {
	withReference(t)
	for _, kind := range []string{"podweft-cni", "ptp"} {
		t.Run(kind, func(t *testing.T) {
			n := newNode(t)
			dir := t.TempDir()
			require.NoError(t, os.Symlink(filepath.Join(reference, "host-local"), filepath.Join(dir, "foreign")))
			conf := n.conf(map[string]any{"type": kind, "cniVersion": "1.0.0", "ipam": map[string]any{
				"type": "foreign", "dataDir": n.dir + "/networks", "ranges": [][]map[string]string{{{"subnet": "10.9.0.0/24"}}},
				"routes": []map[string]string{{"dst": "198.18.0.0/15"}},
			}})
			held := func() []string {
				all, err := filepath.Glob(n.dir + "/networks/pods/10.*")
				require.NoError(t, err)
				return all
			}
			pod, stale := testnet.NewNode(t, "pod"), testnet.NewNode(t, "stale")
			call := func(command string, pod *testnet.Node, conf any) reply {
				return n.call(t, kind, command, conf, about(pod, "CNI_PATH="+dir)...)
			}
			r := call("ADD", pod, conf)
			require.Zero(t, r.code, r)
			require.Zero(t, call("ADD", stale, conf).code)
			assert.Contains(t, r.raw, `"198.18.0.0/15"`)
			conf["prevResult"] = json.RawMessage(r.raw)
			checked := call("CHECK", pod, conf)
			require.Zero(t, checked.code, checked)
			require.Len(t, held(), 2)
			require.NoError(t, os.Rename(held()[0], n.dir+"/away"))
			checked = call("CHECK", pod, conf)
			assert.Equal(t, cniplugin.CodeMissing, checked.Code, checked)
			assert.Contains(t, checked.Details, "host-local: Failed to find address added by container pod")
			require.NoError(t, os.Rename(n.dir+"/away", n.dir+"/networks/pods/10.9.0.2"))

			delete(conf, "prevResult")
			conf["cniVersion"] = "1.1.0" // for the call: this host-local has no GC, and says so
			conf["cni.dev/valid-attachments"] = []any{map[string]any{"containerID": "pod", "ifname": "eth0"}}
			collected := n.call(t, kind, "GC", conf, "CNI_PATH="+dir)
			assert.NotZero(t, collected.code, collected)
			assert.Equal(t, []string{n.dir + "/networks/pods/10.9.0.2"}, held(), "and yet what is gone holds nothing")
			require.Zero(t, call("DEL", pod, conf).code)
			assert.Empty(t, held())
		})
	}
}

// TestStatusOfAForeigner: whatever keeps it from giving addresses, the runtime hears a code that STATUS has.
func TestStatusOfAForeigner(t *testing.T) {
	n := newNode(t)
	confs := map[string]map[string]any{
		"podweft-cni": n.conf(map[string]any{"ipam": map[string]any{"type": "foreign"}}),
		"flannel":     n.conf(map[string]any{"type": "flannel", "delegate": map[string]any{"type": "foreign"}}),
	}
	for _, tt := range []struct {
		name, says string
		want       uint
	}{
		{"well", "", 0},
		{"not ready", `{"cniVersion": "1.1.0", "code": 50, "msg": "soon"}`, cniplugin.CodeNotReady},
		{"limited", `{"cniVersion": "1.1.0", "code": 51, "msg": "no way out"}`, cniplugin.CodeLimited},
		{"any error", `{"cniVersion": "1.1.0", "code": 999, "msg": "it is broken"}`, cniplugin.CodeNotReady},
		{"no words", `oops`, cniplugin.CodeNotReady},
		{"not there", "-", cniplugin.CodeNotReady},
	} {
		for kind, conf := range confs {
			t.Run(tt.name+", "+kind, func(t *testing.T) {
				dir := t.TempDir()
				if tt.says != "-" {
					script := "#!/bin/sh\necho '" + tt.says + "'\n[ -z '" + tt.says + "' ]\n"
					require.NoError(t, os.WriteFile(filepath.Join(dir, "foreign"), []byte(script), 0o700))
				}
				r := n.call(t, kind, "STATUS", conf, "CNI_PATH="+dir)
				assert.Equal(t, tt.want, r.Code, r)
				if tt.want == 0 {
					assert.Zero(t, r.code, r)
				}
			})
		}
	}
}
