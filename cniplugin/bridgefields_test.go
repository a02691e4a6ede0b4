package cniplugin_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/testnet"
)

// TestBridgeFields: what the fields of the bridge plugin do to the node and the pod, in a configuration of its and in one of ours.
func TestBridgeFields(t *testing.T) {
	type state struct {
		gateway           string // the bridge's address
		byDefault         bool   // the pod's way to everything is the bridge
		mtu               int    // of the pod's link
		hairpin, isolated bool
	}
	const gateway = "10.9.0.1/24"
	tests := []struct {
		name, kind string
		changes    map[string]any
		want       state
	}{
		{"bridge", "bridge", nil, state{mtu: 1500}},
		{"isGateway", "bridge", map[string]any{"isGateway": true}, state{gateway: gateway, mtu: 1500}},
		{"isDefaultGateway", "bridge", map[string]any{"isDefaultGateway": true}, state{gateway: gateway, byDefault: true, mtu: 1500}},
		{
			"isDefaultGateway is more", "bridge", map[string]any{"isGateway": false, "isDefaultGateway": true},
			state{gateway: gateway, byDefault: true, mtu: 1500},
		},
		{"ours", "podweft-cni", nil, state{gateway: gateway, byDefault: true, mtu: 1500}},
		{"ours, not the way to everything", "podweft-cni", map[string]any{"isDefaultGateway": false}, state{gateway: gateway, mtu: 1500}},
		{"ours, no gateway", "podweft-cni", map[string]any{"isGateway": false, "isDefaultGateway": false}, state{mtu: 1500}},
		{"mtu", "bridge", map[string]any{"mtu": 1300}, state{mtu: 1300}},
		{"hairpinMode", "bridge", map[string]any{"hairpinMode": true}, state{mtu: 1500, hairpin: true}},
		{"portIsolation", "bridge", map[string]any{"portIsolation": true}, state{mtu: 1500, isolated: true}},
		{
			"promiscMode and ipMasqBackend, which change nothing", "bridge",
			map[string]any{"promiscMode": true, "ipMasqBackend": "iptables"}, state{mtu: 1500},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t)
			pod := testnet.NewNode(t, "pod")
			conf := n.conf(map[string]any{"type": test.kind, "bridge": "br9", "ipam": map[string]any{"type": "host-local", "subnet": "10.9.0.0/24"}})
			maps.Copy(conf, test.changes)
			r := n.add(t, pod, conf)
			host, inPod := dial(t, n.ns), dial(t, pod)
			end, err := host.Port(t.Context(), r.Interfaces[1].Name)
			require.NoError(t, err)
			assert.Equal(t, index(t, host, "br9"), end.Master)
			have := state{mtu: end.MTU, hairpin: end.Hairpin, isolated: end.Isolated}
			addresses, err := host.Addresses(end.Master)
			require.NoError(t, err)
			for _, a := range addresses {
				if !a.LinkScope {
					have.gateway += a.Prefix.String()
				}
			}
			everything := netip.MustParsePrefix("0.0.0.0/0")
			require.NoError(t, inPod.Routes(t.Context(), func() { have.byDefault = false }, func(r nl.Route) {
				have.byDefault = have.byDefault || r.Prefix == everything
			}))
			assert.Equal(t, test.want, have)
			links, err := pod.Links()
			require.NoError(t, err)
			require.Len(t, links, 2)
			assert.Equal(t, have.mtu, links[1].MTU)
			told := slices.ContainsFunc(r.Routes, func(r struct{ Dst, GW string }) bool { return r.Dst == everything.String() })
			assert.Equal(t, have.byDefault, told, "the result says so")
			assert.Equal(t, have.mtu, r.Interfaces[2].Mtu)

			conf["prevResult"] = result(r)
			checked := n.call(t, "podweft-cni", "CHECK", conf, about(pod)...)
			require.Zero(t, checked.code, checked)
		})
	}
}

// TestForceAddress: a bridge gets the gateway that is asked for, whether the configuration would have it by force or not.
func TestForceAddress(t *testing.T) {
	for _, force := range []bool{false, true} {
		n := newNode(t)
		host := dial(t, n.ns)
		for _, gateway := range []string{"10.9.0.1", "10.9.0.254"} {
			pod := testnet.NewNode(t, "pod-"+gateway)
			n.add(t, pod, n.conf(map[string]any{"type": "bridge", "isDefaultGateway": true, "forceAddress": force, "ipam": map[string]any{
				"type": "host-local", "subnet": "10.9.0.0/24", "gateway": gateway,
			}}))
			_, err := pod.Ping(t.Context(), netip.MustParseAddr(gateway))
			require.NoError(t, err, "%s by force: %t", gateway, force)
			var have []string
			addresses, err := host.Addresses(index(t, host, "cni0"))
			require.NoError(t, err)
			for _, a := range addresses {
				if a.Prefix.Addr().Is4() {
					have = append(have, a.Prefix.String())
				}
			}
			assert.Equal(t, []string{gateway + "/24"}, have)
		}
	}
}

// TestRefusedFields: what cannot be served is named, and nothing is done.
func TestRefusedFields(t *testing.T) {
	n := newNode(t)
	pod := testnet.NewNode(t, "pod")
	route := func(field string, value int) map[string]any {
		return map[string]any{"ipam": map[string]any{"routes": []any{map[string]any{"dst": "10.0.0.0/8", field: value}}}}
	}
	for name, changes := range map[string]map[string]any{
		"vlan": {"vlan": 7}, "vlanTrunk": {"vlanTrunk": []any{map[string]any{"id": 7}}, "preserveDefaultVlan": false},
		"macspoofchk": {"macspoofchk": true}, "disableContainerInterface": {"disableContainerInterface": true},
		"ipam.routes mtu": route("mtu", 1300), "ipam.routes advmss": route("advmss", 1200), "ipam.routes priority": route("priority", 7),
		"ipam.routes table": route("table", 7), "ipam.routes scope": route("scope", 253),
	} {
		for _, kind := range []string{"podweft-cni", "ptp"} {
			r := n.call(t, kind, "ADD", n.conf(changes), about(pod)...)
			assert.Equal(t, cniplugin.CodeField, r.Code, "%s: %s", name, r)
			field, part, _ := strings.Cut(name, " ")
			assert.Contains(t, r.Msg, `field "`+field+`" with value`)
			assert.Contains(t, strings.ToLower(r.Msg), part)
		}
	}
	for field, value := range map[string]any{
		"masqAll": true, "conditionsV4": []string{"-s", "192.0.2.0/24"}, "conditionsV6": []string{"-s", "2001:db8::/64"},
	} {
		for _, kind := range []string{"portmap", "podweft-cni", "ptp", "flannel"} {
			r := n.call(t, kind, "ADD", publishing(n, map[string]any{"type": kind, field: value}), about(pod)...)
			assert.Equal(t, cniplugin.CodeField, r.Code, "%s: %s", kind, r)
			assert.Contains(t, r.Msg, `field "`+field+`" with value`)
		}
	}
	assert.Equal(t, []string{"lo"}, n.linkNames(t))
}

// TestRoutesAndReserved: routes go where they say, or else to the gateway, and reserved addresses go to nobody.
func TestRoutesAndReserved(t *testing.T) {
	n := newNode(t)
	pod := testnet.NewNode(t, "pod")
	r := n.add(t, pod, n.conf(map[string]any{"isDefaultGateway": false, "ipam": map[string]any{
		"subnet": "10.9.0.0/24", "gateway": "10.9.0.7", "reserved": []string{"10.9.0.0/30", "10.9.0.4"},
		"routes": []any{
			map[string]any{"dst": "198.18.0.0/16", "gw": "10.9.0.9"}, map[string]any{"dst": "198.19.0.0/16"}, "198.51.100.0/24",
		},
	}}))
	assert.Equal(t, []string{"10.9.0.5/24", "10.9.0.7"}, []string{r.IPs[0].Address, r.IPs[0].Gateway})
	assert.Equal(t, []struct{ Dst, GW string }{
		{"198.18.0.0/16", "10.9.0.9"}, {"198.19.0.0/16", "10.9.0.7"}, {"198.51.100.0/24", "10.9.0.7"},
	}, r.Routes)
	have := map[string]string{}
	require.NoError(t, dial(t, pod).Routes(t.Context(), func() { clear(have) }, func(r nl.Route) {
		if r.Table == nl.TableMain && r.Gateway.IsValid() {
			have[r.Prefix.String()] = r.Gateway.String()
		}
	}))
	assert.Equal(t, map[string]string{"198.18.0.0/16": "10.9.0.9", "198.19.0.0/16": "10.9.0.7", "198.51.100.0/24": "10.9.0.7"}, have)
}

// TestAttachmentsOfLibcni: the list of those that live is also known by the name that libcni gives it.
func TestAttachmentsOfLibcni(t *testing.T) {
	n := newNode(t)
	n.add(t, testnet.NewNode(t, "pod"), n.conf(nil))
	n.add(t, testnet.NewNode(t, "dead"), n.conf(nil))
	r := n.call(t, "podweft-cni", "GC", n.conf(map[string]any{"cni.dev/attachments": []any{map[string]any{"containerID": "pod", "ifname": "eth0"}}}))
	require.Zero(t, r.code, r)
	assert.Len(t, n.linkNames(t), 3, "lo, cni0, and the pod's")
}

// TestDelegateFields: what flannel's plugin makes of the lease and its own fields for a delegate that is another program.
func TestDelegateFields(t *testing.T) {
	n := newNode(t)
	n.lease(t, "FLANNEL_NETWORK=10.244.0.0/16,10.250.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n")
	tests := []struct {
		name string
		conf map[string]any
		want string // of the delegate's configuration, but for where state is
	}{
		{"as the lease says", map[string]any{"delegate": map[string]any{"type": "lan"}}, `{
			"type": "lan", "mtu": 1430, "ipMasq": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.1.0/24"}]],
			"routes": [{"dst": "10.244.0.0/16"}, {"dst": "10.250.0.0/16"}]}}`},
		{"as the delegate says", map[string]any{
			"delegate": map[string]any{"type": "lan", "mtu": 1300, "ipMasq": false, "isGateway": false, "hairpinMode": true, "own": map[string]any{"x": 1}},
			"ipam":     map[string]any{"type": "other", "dataDir": "/d", "routes": []any{map[string]any{"dst": "198.18.0.0/15", "gw": "10.244.1.9"}}},
		}, `{
			"type": "lan", "mtu": 1300, "ipMasq": false, "isGateway": false, "hairpinMode": true, "own": {"x": 1},
			"ipam": {"type": "other", "dataDir": "/d", "ranges": [[{"subnet": "10.244.1.0/24"}]],
			"routes": [{"dst": "198.18.0.0/15", "gw": "10.244.1.9"}, {"dst": "10.244.0.0/16"}, {"dst": "10.250.0.0/16"}]}}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir, calls := lan(t)
			pod := testnet.NewNode(t, "pod")
			conf := n.conf(map[string]any{"type": "flannel"})
			maps.Copy(conf, test.conf)
			r := n.call(t, "flannel", "ADD", conf, about(pod, "CNI_PATH="+dir)...)
			require.Zero(t, r.code, r)
			var got map[string]any
			require.NoError(t, json.Unmarshal([]byte(strings.TrimPrefix(calls()[0], "ADD pod eth0 ")), &got))
			assert.Equal(t, []any{"pods", "1.1.0", n.dir}, []any{got["name"], got["cniVersion"], got["stateDir"]})
			for _, field := range []string{"name", "cniVersion", "stateDir"} {
				delete(got, field)
			}
			raw, err := json.Marshal(got)
			require.NoError(t, err)
			assert.JSONEq(t, test.want, string(raw))
			require.Zero(t, n.call(t, "flannel", "DEL", conf, about(pod, "CNI_PATH="+dir)...).code)
		})
	}
}

// TestForeignerThatFails: it is told to DEL what its ADD may have left, its words are the error's, and its stderr is passed on.
func TestForeignerThatFails(t *testing.T) {
	n := newNode(t)
	dir := t.TempDir()
	script := "#!/bin/sh\necho $CNI_COMMAND >>" + dir + "/log\necho noise >&2\n[ $CNI_COMMAND = DEL ] && exit 0\n" +
		`echo '{"cniVersion": "1.1.0", "code": 11, "msg": "soon", "details": "very"}'; exit 1` + "\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "foreign"), []byte(script), 0o700))
	for kind, conf := range map[string]map[string]any{
		"podweft-cni": n.conf(map[string]any{"ipam": map[string]any{"type": "foreign"}}),
		"flannel":     n.conf(map[string]any{"type": "flannel", "delegate": map[string]any{"type": "foreign"}}),
	} {
		t.Run(kind, func(t *testing.T) {
			pod := testnet.NewNode(t, "pod")
			stdin, err := json.Marshal(conf)
			require.NoError(t, err)
			var out, noise bytes.Buffer
			code := cniplugin.Run(t.Context(), cniplugin.Config{NetNS: n.ns.NetNS()}, cniplugin.Call{
				Type: kind, Environ: append(os.Environ(), about(pod, "CNI_PATH="+dir, "CNI_COMMAND=ADD")...),
				Stdin: bytes.NewReader(stdin), Stdout: &out, Stderr: &noise,
			})
			assert.Equal(t, 1, code)
			assert.JSONEq(t, `{"cniVersion": "1.1.0", "code": 11, "msg": "soon", "details": "very"}`, out.String())
			assert.Contains(t, noise.String(), "noise\n")
			called, err := os.ReadFile(filepath.Join(dir, "log"))
			require.NoError(t, err)
			assert.Equal(t, "ADD\nDEL\n", string(called))
			require.NoError(t, os.Remove(filepath.Join(dir, "log")))
			assert.Equal(t, []string{"lo"}, n.linkNames(t))
			left, err := os.ReadDir(filepath.Join(n.dir, "attachments"))
			if err != nil {
				require.ErrorIs(t, err, os.ErrNotExist)
			}
			assert.Empty(t, left)
		})
	}
}
