package cniplugin_test

import (
	"encoding/json"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/testnet"
)

// TestResolvConf: what a pod's names are resolved by is in the file, unless the configuration or the runtime says it.
func TestResolvConf(t *testing.T) {
	n := newNode(t)
	file := filepath.Join(n.dir, "resolv.conf")
	require.NoError(t, os.WriteFile(file, []byte(`# of the cluster
nameserver 10.96.0.10
nameserver fd00:96::a
domain cluster.local
search default.svc.cluster.local svc.cluster.local
options ndots:5 edns0
; nameserver 192.0.2.53
`), 0o600))
	whole := map[string]any{
		"nameservers": []any{"10.96.0.10", "fd00:96::a"}, "domain": "cluster.local",
		"search": []any{"default.svc.cluster.local", "svc.cluster.local"}, "options": []any{"ndots:5", "edns0"},
	}
	own := map[string]any{"nameservers": []any{"192.0.2.1"}}
	asked := map[string]any{"nameservers": []any{"192.0.2.2"}}
	tests := []struct {
		name, kind string
		changes    map[string]any
		want       map[string]any
	}{
		{"ours", "podweft-cni", nil, whole},
		{"routed", "ptp", nil, whole},
		{"flannel, whose ipam is the delegate's", "flannel", nil, whole},
		{"the configuration's own", "podweft-cni", map[string]any{"dns": own}, own},
		{"the runtime's", "podweft-cni", map[string]any{"dns": own, "runtimeConfig": map[string]any{"dns": asked}}, asked},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			pod := testnet.NewNode(t, "pod")
			conf := n.conf(map[string]any{"type": test.kind, "ipam": map[string]any{"resolvConf": file}})
			maps.Copy(conf, test.changes)
			r := n.call(t, test.kind, "ADD", conf, about(pod)...)
			require.Zero(t, r.code, r)
			assert.Equal(t, test.want, r.object(t)["dns"])
			require.Zero(t, n.call(t, test.kind, "DEL", conf, about(pod)...).code)
		})
	}
	before := n.linkNames(t)
	lost := n.conf(map[string]any{"ipam": map[string]any{"resolvConf": file + ".gone"}})
	r := n.call(t, "podweft-cni", "ADD", lost, about(testnet.NewNode(t, "late"))...)
	assert.Equal(t, cniplugin.CodeIO, r.Code, r)
	assert.Equal(t, "ipam.resolvConf cannot be read", r.Msg)
	assert.Equal(t, before, n.linkNames(t), "an ADD that fails leaves nothing")
}

// TestRangeEnds: addresses are given from rangeStart to rangeEnd, in each way of writing a range, and none beside them.
func TestRangeEnds(t *testing.T) {
	four := map[string]any{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.20", "rangeEnd": "10.9.0.21", "gateway": "10.9.0.254"}
	six := map[string]any{"subnet": "fd00:9::/64", "rangeStart": "fd00:9::20", "rangeEnd": "fd00:9::21"}
	want := [][]string{
		{"10.9.0.20/24 via 10.9.0.254", "fd00:9::20/64 via fd00:9::1"},
		{"10.9.0.21/24 via 10.9.0.254", "fd00:9::21/64 via fd00:9::1"},
	}
	old := maps.Clone(four)
	old["ranges"] = []any{[]any{six}}
	tests := []struct {
		name    string
		changes map[string]any
	}{
		{"ranges", map[string]any{"ipam": map[string]any{"ranges": []any{[]any{four}, []any{six}}}}},
		{"the old form beside ranges", map[string]any{"ipam": old}},
		{"the runtime's", map[string]any{"runtimeConfig": map[string]any{"ipRanges": []any{[]any{four}, []any{six}}}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t)
			conf := n.conf(test.changes)
			for i, name := range []string{"first", "second"} {
				var got []string
				for _, ip := range n.add(t, testnet.NewNode(t, name), conf).IPs {
					got = append(got, ip.Address+" via "+ip.Gateway)
				}
				assert.Equal(t, want[i], got)
			}
			third := testnet.NewNode(t, "third")
			r := n.call(t, "podweft-cni", "ADD", conf, about(third)...)
			assert.Equal(t, cniplugin.CodeExhausted, r.Code, r)
			r = n.call(t, "podweft-cni", "ADD", conf, about(third, "CNI_ARGS=IP=10.9.0.22")...)
			assert.NotZero(t, r.code, "an address beside the range: %s", r)
		})
	}
	n := newNode(t)
	pod := testnet.NewNode(t, "pod")
	for _, bad := range []struct{ first, last, want string }{
		{"ten", "10.9.0.21", `ipam.ranges[0][0].rangeStart: "ten" is not an address`},
		{"10.9.0.20", "21", `ipam.ranges[0][0].rangeEnd: "21" is not an address`},
		{"10.9.0.21", "10.9.0.20", "10.9.0.20"},
		{"10.9.1.20", "10.9.1.21", "10.9.1.20"},
	} {
		r := n.call(t, "podweft-cni", "ADD", n.conf(map[string]any{"ipam": map[string]any{
			"subnet": "10.9.0.0/24", "rangeStart": bad.first, "rangeEnd": bad.last,
		}}), about(pod)...)
		assert.Equal(t, cniplugin.CodeConfig, r.Code, r)
		assert.Contains(t, r.Msg+r.Details, bad.want)
	}
}

// TestArguments: what args.cni asks for is what the runtime may ask for by other means, which come first; and those of CNI_ARGS come last.
func TestArguments(t *testing.T) {
	args := map[string]any{"cni": map[string]any{"ips": []string{"10.244.1.50", "fd00:244:0:1::50/64"}, "mac": "02:00:00:00:00:50"}}
	for _, kind := range []string{"podweft-cni", "ptp", "flannel"} {
		t.Run(kind, func(t *testing.T) {
			n := newNode(t)
			bits := map[string]string{"podweft-cni": "/24 /64", "flannel": "/24 /64", "ptp": "/32 /128"}[kind]
			bits4, bits6, _ := strings.Cut(bits, " ")
			add := func(name string, changes map[string]any, more ...string) (ips []string, mac string) {
				t.Helper()
				conf := n.conf(map[string]any{"type": kind, "args": args})
				maps.Copy(conf, changes)
				pod := testnet.NewNode(t, name)
				r := n.call(t, kind, "ADD", conf, about(pod, more...)...)
				require.Zero(t, r.code, r)
				for _, ip := range r.IPs {
					ips = append(ips, ip.Address)
				}
				links, err := pod.Links()
				require.NoError(t, err)
				require.Len(t, links, 2)
				at := r.Interfaces[len(r.Interfaces)-1].Mac
				assert.Equal(t, at, links[1].MAC.String(), "as it says")
				conf["prevResult"] = result(r)
				checked := n.call(t, kind, "CHECK", conf, about(pod, more...)...)
				require.Zero(t, checked.code, checked)
				return ips, at
			}
			ips, mac := add("asks", nil, "CNI_ARGS=IgnoreUnknown=1;IP=10.244.1.60;MAC=02:00:00:00:00:60")
			assert.Equal(t, []string{"10.244.1.50" + bits4, "fd00:244:0:1::50" + bits6}, ips)
			assert.Equal(t, "02:00:00:00:00:50", mac)
			ips, mac = add("insists", map[string]any{"runtimeConfig": map[string]any{"ips": []string{"10.244.1.70"}, "mac": "02:00:00:00:00:70"}})
			assert.Equal(t, "10.244.1.70"+bits4, ips[0])
			assert.Equal(t, "02:00:00:00:00:70", mac)
			ips, mac = add("by-variables", map[string]any{"args": nil}, "CNI_ARGS=IP=fd00:244:0:1::80;MAC=02:00:00:00:00:80")
			assert.Equal(t, "fd00:244:0:1::80"+bits6, ips[1])
			assert.Equal(t, "02:00:00:00:00:80", mac)

			late := n.conf(map[string]any{"type": kind, "args": args})
			r := n.call(t, kind, "ADD", late, about(testnet.NewNode(t, "late"))...)
			assert.Equal(t, cniplugin.CodeTaken, r.Code, r)
			late["args"] = map[string]any{"cni": map[string]any{"ips": []string{"ten"}}}
			r = n.call(t, kind, "ADD", late, about(testnet.NewNode(t, "odd"))...)
			assert.Equal(t, cniplugin.CodeConfig, r.Code, r)
			assert.Equal(t, `args.cni.ips: "ten" is neither an address nor a prefix`, r.Msg)
		})
	}
}

// TestLogFile: what is done goes to the file, as much of it as logLevel says, and to nobody else: standard output is the runtime's.
func TestLogFile(t *testing.T) {
	n := newNode(t)
	file := filepath.Join(n.dir, "log")
	pod := testnet.NewNode(t, "pod")
	logged := func() string {
		t.Helper()
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, os.Truncate(file, 0))
		return string(raw)
	}
	conf := func(kind, level string) map[string]any {
		c := n.conf(map[string]any{"type": kind, "logFile": file})
		if level != "" {
			c["logLevel"] = level
		}
		return c
	}
	for _, kind := range []string{"podweft-cni", "flannel"} {
		r := n.call(t, kind, "ADD", conf(kind, "debug"), about(pod)...)
		require.Zero(t, r.code, r)
		text := logged()
		assert.Contains(t, text, `level=DEBUG msg="call done" command=ADD network=pods container=pod link=eth0`)
		assert.Contains(t, text, `msg="port attached"`, "and each change")
		refused := n.call(t, kind, "ADD", conf(kind, ""), about(pod)...)
		require.NotZero(t, refused.code)
		text = logged()
		assert.Contains(t, text, `level=WARN msg="call failed" command=ADD network=pods container=pod link=eth0 err="pods/pod/eth0 is attached already`)
		assert.NotContains(t, text, "DEBUG")
		require.NotZero(t, n.call(t, kind, "ADD", conf(kind, "error"), about(pod)...).code)
		assert.Empty(t, logged())
		require.Zero(t, n.call(t, kind, "DEL", conf(kind, ""), about(pod)...).code)
	}
	info, err := os.Stat(file)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	r := n.call(t, "podweft-cni", "ADD", conf("podweft-cni", "loud"), about(pod)...)
	assert.Equal(t, cniplugin.CodeConfig, r.Code, r)
	assert.Equal(t, `logLevel is not "debug", "info", "warn" or "error"`, r.Msg)
	bad := conf("podweft-cni", "")
	bad["logFile"] = filepath.Join(n.dir, "nowhere", "log")
	r = n.call(t, "podweft-cni", "ADD", bad, about(pod)...)
	assert.Equal(t, cniplugin.CodeIO, r.Code, r)
}

// TestLoopback: the verbs of the plugin that runtimes start for every pod, in the versions that they use.
func TestLoopback(t *testing.T) {
	for _, v := range []string{"0.3.1", "1.0.0", "1.1.0"} {
		t.Run(v, func(t *testing.T) {
			n := newNode(t)
			pod := testnet.NewNode(t, "pod")
			conf := map[string]any{"cniVersion": v, "name": "cni-loopback", "type": "loopback", "stateDir": n.dir}
			call := func(command string, more ...string) reply {
				return n.call(t, "loopback", command, conf, about(pod, append([]string{"CNI_IFNAME=lo"}, more...)...)...)
			}
			isUp := func() bool {
				_, err := pod.Ping(t.Context(), netip.MustParseAddr("127.0.0.1"))
				return err == nil
			}
			require.NoError(t, pod.SetDown("lo")) // as the kernel makes it
			if v != "0.3.1" {
				r := call("CHECK")
				assert.Equal(t, cniplugin.CodeMissing, r.Code, r)
			}
			r := call("ADD")
			require.Zero(t, r.code, r)
			assert.Equal(t, v, r.CNIVersion)
			require.Len(t, r.Interfaces, 1)
			assert.Equal(t, []string{"lo", pod.NetNS()}, []string{r.Interfaces[0].Name, r.Interfaces[0].Sandbox})
			require.NotEmpty(t, r.IPs)
			assert.Equal(t, "127.0.0.1/8", r.IPs[0].Address)
			for _, ip := range r.IPs {
				require.NotNil(t, ip.Interface)
				assert.Zero(t, *ip.Interface)
			}
			assert.True(t, isUp())
			require.Zero(t, call("ADD").code, "again")
			if v != "0.3.1" {
				conf["prevResult"] = result(r)
				r := call("CHECK")
				require.Zero(t, r.code, r)
				assert.Empty(t, r.raw)
				require.NoError(t, pod.SetDown("lo"))
				assert.Equal(t, cniplugin.CodeMissing, call("CHECK").Code)
				require.NoError(t, pod.SetUp("lo"))
			}
			for _, netns := range []string{pod.NetNS(), "/nowhere", ""} {
				r := call("DEL", "CNI_NETNS="+netns)
				require.Zero(t, r.code, r)
				assert.Empty(t, r.raw)
			}
			for _, command := range []string{"STATUS", "GC"} {
				r := call(command)
				if v == "1.1.0" {
					assert.Zero(t, r.code, r)
				} else {
					assert.Equal(t, cniplugin.CodeVersion, r.Code, r)
				}
			}
			assert.Equal(t, cniplugin.CodeContainer, call("ADD", "CNI_NETNS=/nowhere").Code)
			assert.Equal(t, cniplugin.CodeNetNS, call("ADD", "CNI_NETNS="+n.ns.NetNS()).Code)
			assert.Equal(t, []string{"lo"}, n.linkNames(t), "nothing of it is the node's")
		})
	}
}

// TestLoopbackInAChain: what plugins before it have answered is passed on.
func TestLoopbackInAChain(t *testing.T) {
	n := newNode(t)
	pod := testnet.NewNode(t, "pod")
	before := n.add(t, pod, n.conf(nil))
	r := n.call(t, "loopback", "ADD", n.conf(map[string]any{"type": "loopback", "prevResult": result(before)}), about(pod)...)
	require.Zero(t, r.code, r)
	assert.JSONEq(t, before.raw, r.raw)
}

// object is the answer as it came.
func (r reply) object(t *testing.T) (all map[string]any) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(r.raw), &all))
	return all
}
