package forward_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft/forward"
	"github.com/podweft/podweft/internal/sysctl"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

const patience = 20 * time.Second

// spec is what a cluster's nodes want: one network that ends in the middle of a byte, and one that does not.
func spec() forward.Spec {
	return forward.Spec{Networks: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/47")}}
}

// world is a host between two pods.
type world struct {
	host *testnet.Node
	pods [2]*testnet.Node // V4 and V6 are set
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{host: testnet.NewNode(t, "host")}
	require.NoError(t, w.host.Do(func() error {
		for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
			if err := sysctl.EnsureHere(key, "1"); err != nil {
				return err
			}
		}
		return sysctl.EnsureHere("net/ipv6/conf/default/accept_dad", "0")
	}))
	for i := range w.pods {
		w.pods[i] = testnet.NewNode(t, fmt.Sprint("pod", i))
		w.attach(t, i)
	}
	return w
}

// attach connects a pod to the host: the first address of its subnets is the host's.
func (w *world) attach(t testing.TB, i int) {
	t.Helper()
	pod := w.pods[i]
	require.NoError(t, pod.Do(func() error { return sysctl.EnsureHere("net/ipv6/conf/default/accept_dad", "0") }))
	inside, err := os.Open(pod.NetNS())
	require.NoError(t, err)
	defer inside.Close()
	subnets := [2]netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%d::/64", i))}
	name := fmt.Sprint("pod", i)
	for _, end := range []struct {
		node *testnet.Node
		link string
	}{{w.host, name}, {pod, "eth0"}} {
		require.NoError(t, end.node.Do(func() error {
			if end.node == w.host {
				veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: -1}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(inside.Fd()))}
				if err := netlink.LinkAdd(veth); err != nil {
					return err
				}
			}
			l, err := netlink.LinkByName(end.link)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
			for _, s := range subnets {
				own := s.Addr().Next()
				if end.node == pod {
					own = own.Next()
				}
				a, err := netlink.ParseAddr(netip.PrefixFrom(own, s.Bits()).String())
				if err != nil {
					return err
				}
				if err := netlink.AddrAdd(l, a); err != nil {
					return err
				}
				if end.node == pod {
					if err := netlink.RouteAdd(&netlink.Route{Gw: s.Addr().Next().AsSlice()}); err != nil {
						return err
					}
				}
			}
			return nil
		}))
	}
	pod.V4, pod.V6 = subnets[0].Addr().Next().Next(), subnets[1].Addr().Next().Next()
}

// passes tells whether one packet of several gets from one pod to the other and back.
func (w *world) passes(t testing.TB, to netip.Addr) bool {
	t.Helper()
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := w.pods[0].Ping(ctx, to)
		cancel()
		if err == nil {
			return true
		}
	}
	return false
}

// opens waits until packets pass in both families.
func (w *world) opens(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(patience); !w.passes(t, w.pods[1].V4) || !w.passes(t, w.pods[1].V6); {
		require.True(t, time.Now().Before(deadline), "packets are still dropped")
	}
}

// closed requires that nothing passes.
func (w *world) closed(t testing.TB, why string) {
	t.Helper()
	for _, to := range w.pods[1].Addrs() {
		require.False(t, w.passes(t, to), "%s: a packet to %s came through", why, to)
	}
}

// needs skips the test where a program is not installed.
func needs(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("PODWEFT_REQUIRE_KERNEL") == "1" {
			require.NoError(t, err, "apt install iptables")
		}
		t.Skip(err)
	}
}

// run runs a program on the host and returns what it said.
func (w *world) run(t testing.TB, command string) string {
	t.Helper()
	words := strings.Fields(command)
	out, err := w.host.Command(t.Context(), words[0], words[1:]...).CombinedOutput()
	require.NoError(t, err, "%s: %s", command, out)
	return string(out)
}

func newDriver(t testing.TB, w *world) *forward.Driver {
	t.Helper()
	d, err := forward.New(forward.Config{NetNS: w.host.NetNS()})
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}
