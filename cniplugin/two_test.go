package cniplugin_test

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
)

// TestTwoInterfaces: a pod is attached twice, with the defaults that everybody has, as Multus and podman do it.
func TestTwoInterfaces(t *testing.T) {
	tests := []struct {
		name, kind, second string
	}{
		{"bridge, same network", "podweft-cni", "pods"},
		{"bridge, another network", "podweft-cni", "blue"},
		{"flannel, same network", "flannel", "pods"},
		{"flannel, another network", "flannel", "blue"},
		{"routed, same network", "ptp", "pods"},
		{"routed, another network", "ptp", "blue"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t)
			n.forward(t)
			sabotage.Do(t, n.ns, func(b *nl.Batch) { // what the node sends from where a link has no address of it
				b.SetUp(1, true)
				b.AddAddress(nl.Address{Link: 1, Prefix: netip.MustParsePrefix("192.0.2.1/32")})
				b.AddAddress(nl.Address{Link: 1, Prefix: netip.MustParsePrefix("2001:db8::1/128")})
			})
			blue := filepath.Join(n.dir, "blue.env")
			require.NoError(t, os.WriteFile(blue, []byte(strings.ReplaceAll(subnetEnv, "244", "99")), 0o600))
			pod := testnet.NewNode(t, "pod")
			require.NoError(t, pod.Do(func() error { // what the host has would be the pod's
				var errs []error
				for _, of := range []string{"all", "default"} {
					errs = append(errs, os.WriteFile("/proc/sys/net/ipv4/conf/"+of+"/rp_filter", []byte("0"), 0))
				}
				return errors.Join(errs...)
			}))
			first, second := n.conf(map[string]any{"type": test.kind}), n.conf(map[string]any{"type": test.kind})
			if test.second == "blue" {
				maps.Copy(second, map[string]any{
					"name": "blue", "bridge": "blue0", "delegate": map[string]any{"bridge": "blue0"}, "subnetFile": blue,
				})
			}
			confs := []map[string]any{first, second}
			var addresses [2][]netip.Addr
			call := func(command string, i int) reply {
				return n.call(t, test.kind, command, confs[i], about(pod, "CNI_IFNAME="+[]string{"eth0", "net1"}[i])...)
			}
			add := func(i int) {
				delete(confs[i], "prevResult")
				r := call("ADD", i)
				require.Zero(t, r.code, r)
				confs[i]["prevResult"] = result(r)
				addresses[i] = nil
				for _, ip := range r.IPs {
					addresses[i] = append(addresses[i], netip.MustParsePrefix(ip.Address).Addr())
				}
			}
			works := func(command string, i int) {
				t.Helper()
				r := call(command, i)
				require.Zero(t, r.code, r)
			}
			answers := func(i int) {
				t.Helper()
				for _, a := range addresses[i] {
					_, err := n.ns.Ping(t.Context(), a)
					require.NoError(t, err)
				}
			}
			add(0)
			answers(0)
			add(1)
			for i := range 2 {
				works("CHECK", i)
				assert.Contains(t, call("ADD", i).Msg, "is attached already: DEL it first")
			}
			answers(0)
			if test.kind != "ptp" { // where the answer takes the first link, from which the node does not expect it
				answers(1)
			}
			works("DEL", 0)
			works("CHECK", 1)
			answers(1)
			add(0)
			works("DEL", 1)
			works("CHECK", 0)
			answers(0)
			works("DEL", 0)
			links, err := pod.Links()
			require.NoError(t, err)
			assert.Len(t, links, 1, "lo and nothing else")
		})
	}
}
