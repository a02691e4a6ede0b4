package cniplugin_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
)

// FuzzRun calls every verb of every plugin with fields of the fuzzer's. Whatever they are, the answer is a result or an error with a
// code and a message, in JSON.
func FuzzRun(f *testing.F) {
	for _, fields := range []string{
		``, `null`, `[]`, `{}`, `{"prevResult": null}`,
		`{"prevResult": {"cniVersion": "1.1.0", "ips": [null]}, "runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1}]}}`,
		`{"cniVersion": "0.4.0", "prevResult": {"interfaces": [null], "ips": [{"version": "4", "interface": 0, "address": "10.0.0.1/8"}]}}`,
		`{"cniVersion": "0.2.0", "prevResult": {"ip4": {"ip": "10.0.0.1/8", "routes": [null]}}, "portMappings": [null]}`,
		`{"prevResult": {"ips": [{"interface": -1}], "routes": [{}], "dns": null}, "cni.dev/valid-attachments": [null]}`,
		`{"ipam": {"ranges": [[null], []], "routes": [null, "0.0.0.0/0"]}, "args": {"cni": {"ips": [""]}}, "delegate": {"type": "ptp"}}`,
	} {
		f.Add(fields)
	}
	n := newNode(f)
	f.Fuzz(func(t *testing.T, fields string) {
		var conf map[string]any
		if json.Unmarshal([]byte(fields), &conf) == nil && conf != nil {
			withoutFiles(conf)
			if ipam, ok := conf["ipam"].(map[string]any); ok {
				withoutFiles(ipam)
			}
			if delegate, ok := conf["delegate"].(map[string]any); ok {
				withoutFiles(delegate)
			}
			whole := n.conf(nil)
			maps.Copy(whole, conf)
			raw, err := json.Marshal(whole)
			require.NoError(t, err)
			fields = string(raw)
		}
		for _, kind := range answersAs {
			for _, command := range []string{"ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"} {
				var out bytes.Buffer
				code := cniplugin.Run(t.Context(), cniplugin.Config{StateDir: n.dir, NetNS: n.ns.NetNS()}, cniplugin.Call{
					Type: kind, Stdin: strings.NewReader(fields), Stdout: &out, Environ: []string{
						"CNI_COMMAND=" + command, "CNI_CONTAINERID=pod", "CNI_IFNAME=eth0", "CNI_NETNS=/nowhere", "CNI_PATH=/nowhere",
					},
				})
				if code == 0 {
					assert.True(t, out.Len() == 0 || json.Valid(out.Bytes()), out.String())
					continue
				}
				var r reply
				require.NoError(t, json.Unmarshal(out.Bytes(), &r), out.String())
				assert.NotZero(t, r.Code)
				assert.NotEmpty(t, r.Msg)
			}
		}
	})
}

// withoutFiles takes out the fields that name files, whatever their case: they stay in the test's directory.
func withoutFiles(conf map[string]any) {
	maps.DeleteFunc(conf, func(name string, _ any) bool {
		for _, file := range []string{"stateDir", "dataDir", "subnetFile", "logFile", "resolvConf"} {
			if strings.EqualFold(name, file) {
				return true
			}
		}
		return false
	})
}
