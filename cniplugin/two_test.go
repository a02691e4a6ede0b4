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

	"github.com/podweft/podweft/cniplugin"
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

// TestReferenceInterfaceBehindOurs: the reference's bridge plugin appends its IPv6 default route to ours, which the kernel makes one of two
// nexthops.
func TestReferenceInterfaceBehindOurs(t *testing.T) {
	for _, kind := range []string{"podweft-cni", "ptp"} {
		t.Run(kind, func(t *testing.T) {
			withReference(t)
			n := newNode(t)
			n.forward(t)
			pod := testnet.NewNode(t, "pod")
			ours := n.conf(map[string]any{"type": kind})
			r := n.call(t, kind, "ADD", ours, about(pod)...)
			require.Zero(t, r.code, r)
			checked := n.conf(map[string]any{"type": kind, "prevResult": result(r)})
			n.callReference(t, "bridge", "ADD", pod, map[string]any{
				"cniVersion": "1.0.0", "name": "theirs", "type": "bridge", "bridge": "theirs0", "isDefaultGateway": true,
				"ipam": map[string]any{"type": "host-local", "dataDir": filepath.Join(n.dir, "networks"), "ranges": [][]map[string]string{
					{{"subnet": "10.9.1.0/24"}}, {{"subnet": "fd00:9::/64"}},
				}},
			}, "CNI_IFNAME=net1")
			text, err := pod.Command(t.Context(), "ip", "-6", "route", "show", "default").CombinedOutput()
			require.NoError(t, err)
			require.Equal(t, 2, strings.Count(string(text), "nexthop"), "as it is to be judged: %s", text)
			r = n.call(t, kind, "CHECK", checked, about(pod)...)
			assert.Zero(t, r.code, r)

			third := n.conf(map[string]any{"type": "podweft-cni", "name": "third", "bridge": "third0", "ipMasq": false, "ipam": map[string]any{
				"subnet": "10.7.1.0/24", "ranges": [][]map[string]string{{{"subnet": "fd00:7::/64"}}},
			}})
			r = n.call(t, "podweft-cni", "ADD", third, about(pod, "CNI_IFNAME=net2")...)
			require.Zero(t, r.code, r)
			third["prevResult"] = result(r)
			r = n.call(t, "podweft-cni", "CHECK", third, about(pod, "CNI_IFNAME=net2")...)
			assert.Zero(t, r.code, r)

			out, err := pod.Command(t.Context(), "ip", "-6", "route", "del", "default", "dev", "eth0").CombinedOutput()
			require.NoError(t, err, string(out))
			r = n.call(t, kind, "CHECK", checked, about(pod)...)
			assert.Equal(t, cniplugin.CodeMissing, r.Code, r)
			assert.Contains(t, r.Msg+r.Details, "::/0 via")
		})
	}
}
