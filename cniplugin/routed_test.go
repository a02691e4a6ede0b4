package cniplugin_test

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
)

// TestRouted attaches pods without a bridge, by the name of the plugin that does so or by the mode of ours.
func TestRouted(t *testing.T) {
	for _, how := range []map[string]any{{"type": "ptp"}, {"mode": "ptp"}} {
		raw, err := json.Marshal(how)
		require.NoError(t, err)
		t.Run(string(raw), func(t *testing.T) {
			n := newNode(t)
			n.forward(t)
			before := n.linkNames(t)
			a, b := testnet.NewNode(t, "a"), testnet.NewNode(t, "b")
			conf := n.conf(how)
			r := n.add(t, a, conf)
			require.Len(t, r.Interfaces, 2)
			assert.Equal(t, []string{"", a.NetNS()}, []string{r.Interfaces[0].Sandbox, r.Interfaces[1].Sandbox})
			require.Len(t, r.IPs, 2)
			assert.Equal(t, []string{"10.244.1.2/32", "169.254.1.1", "fd00:244:0:1::2/128", "fe80::1"},
				[]string{r.IPs[0].Address, r.IPs[0].Gateway, r.IPs[1].Address, r.IPs[1].Gateway})
			assert.Equal(t, 1450, r.Interfaces[1].Mtu)
			n.add(t, b, conf)
			for _, to := range []string{"10.244.1.3", "fd00:244:0:1::3"} {
				_, err := a.Ping(t.Context(), netip.MustParseAddr(to))
				require.NoError(t, err, to)
			}

			again := n.conf(how)
			again["prevResult"] = result(r)
			checked := n.call(t, "ptp", "CHECK", again, about(a)...)
			require.Zero(t, checked.code, checked)
			require.NoError(t, a.SetDown("eth0"))
			checked = n.call(t, "ptp", "CHECK", again, about(a)...)
			assert.Equal(t, cniplugin.CodeMissing, checked.Code, checked)

			for range 2 {
				require.Zero(t, n.call(t, "ptp", "DEL", conf, about(a, "CNI_NETNS=")...).code)
			}
			gone := n.conf(how)
			gone["cni.dev/valid-attachments"] = []any{}
			require.Zero(t, n.call(t, "ptp", "GC", gone).code)
			assert.Equal(t, before, n.linkNames(t))
		})
	}
}

// TestRoutedHostPort: the port leads to the pod for the node's own programs too, by 127.0.0.1.
func TestRoutedHostPort(t *testing.T) {
	n := newNode(t)
	n.forward(t)
	sabotage.Do(t, n.ns, func(b *nl.Batch) {
		b.SetUp(1, true)
		b.AddAddress(nl.Address{Link: 1, Prefix: netip.MustParsePrefix("192.0.2.1/32")})
	})
	pod := testnet.NewNode(t, "pod")
	n.add(t, pod, n.conf(map[string]any{"type": "ptp", "runtimeConfig": map[string]any{"portMappings": []any{
		map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
	}}}))
	var l net.Listener
	require.NoError(t, pod.Do(func() (err error) {
		l, err = net.Listen("tcp", "10.244.1.2:80")
		return err
	}))
	defer l.Close()
	for _, to := range []string{"127.0.0.1:8080", "192.0.2.1:8080"} {
		require.NoError(t, n.ns.Do(func() error {
			c, err := net.DialTimeout("tcp", to, 10*time.Second)
			if err == nil {
				err = c.Close()
			}
			return err
		}), to)
	}
}

// result is what an ADD has printed.
func result(r reply) json.RawMessage { return json.RawMessage(r.raw) }

// forward makes the node a router, as its agent does.
func (n *node) forward(t testing.TB) {
	t.Helper()
	require.NoError(t, testnet.Sysctls())
	require.NoError(t, n.ns.Do(func() error {
		for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/"+key, []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	}))
}
