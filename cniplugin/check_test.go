package cniplugin_test

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/ipam"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/node/local"
	"github.com/podweft/podweft/testnet"
)

// TestCheckBeyondThePod: a CHECK misses what an ADD has made outside the pod, each by itself.
func TestCheckBeyondThePod(t *testing.T) {
	owner := ipam.Owner{Network: "pods", Container: "pod", Interface: "eth0"}
	port := nat.HostPort{Protocol: nat.TCP, Port: 8080, Pod: netip.MustParseAddrPort("10.244.1.2:80")}
	tests := []struct {
		name, want string
		take       func(t *testing.T, n *node, ports *nat.Ports, pool *ipam.Pool, records *local.Records) error
	}{
		{"a host port", "not open: [tcp 0.0.0.0:8080 to 10.244.1.2:80]",
			func(t *testing.T, _ *node, ports *nat.Ports, _ *ipam.Pool, _ *local.Records) error {
				return ports.Remove(t.Context(), []nat.HostPort{port})
			}},
		{"the record of host ports", "the host ports are not recorded",
			func(_ *testing.T, _ *node, _ *nat.Ports, _ *ipam.Pool, records *local.Records) error {
				return records.Remove(local.Key{Network: "pods", Container: "pod", Interface: "eth0"})
			}},
		{"the reservation", "pods/pod/eth0",
			func(t *testing.T, _ *node, _ *nat.Ports, pool *ipam.Pool, _ *local.Records) error {
				return pool.Release(t.Context(), owner)
			}},
		{"its address, which is another's", "holds [10.244.1.9/24 fd00:244:0:1::9/64], not [10.244.1.2/24 fd00:244:0:1::2/64]",
			func(t *testing.T, n *node, _ *nat.Ports, pool *ipam.Pool, _ *local.Records) error {
				if err := pool.Release(t.Context(), owner); err != nil {
					return err
				}
				_, err := pool.Allocate(t.Context(), owner, netip.MustParseAddr("10.244.1.9"), netip.MustParseAddr("fd00:244:0:1::9"))
				return err
			}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t)
			pod := testnet.NewNode(t, "pod")
			conf := n.conf(withPort(8080))
			conf["prevResult"] = result(n.add(t, pod, conf))
			checked := n.call(t, "podweft-cni", "CHECK", conf, about(pod)...)
			require.Zero(t, checked.code, checked)
			ports, err := nat.NewPorts(nat.Config{Owner: "pods", NetNS: n.ns.NetNS()})
			require.NoError(t, err)
			defer ports.Close()
			pool, err := ipam.Open(ipam.Config{Path: filepath.Join(n.dir, "ipam", "pods"), Sets: [][]ipam.Range{
				{{Prefix: netip.MustParsePrefix("10.244.1.0/24")}}, {{Prefix: netip.MustParsePrefix("fd00:244:0:1::/64")}},
			}})
			require.NoError(t, err)
			defer pool.Close()
			records, err := local.Open(n.dir+"/hostports", n.boot)
			require.NoError(t, err)
			require.NoError(t, test.take(t, n, ports, pool, records))
			checked = n.call(t, "podweft-cni", "CHECK", conf, about(pod)...)
			assert.Equal(t, cniplugin.CodeMissing, checked.Code, checked)
			assert.Contains(t, checked.Details, test.want)
		})
	}
}
