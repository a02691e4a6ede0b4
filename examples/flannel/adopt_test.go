package flannel

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet/etcd"
	"github.com/podweft/podweft/testnet"
)

// flannelNode is a node as flanneld and the CNI plugins leave it: the number is in its subnet and its MAC.
type flannelNode struct {
	*testnet.Node
	number int
	pod    *testnet.Node
}

func (n *flannelNode) mac() podweft.MAC     { return podweft.MAC{2, 0xf1, 0, 0, 0, byte(n.number)} }
func (n *flannelNode) subnet() netip.Prefix { return numbered(n.number) }
func numbered(n int) netip.Prefix           { return netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", n)) }
func mask(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
func (n *flannelNode) podAddress() netip.Addr { return n.subnet().Addr().Next().Next() }

// build makes the device, the peers' routes, neighbours and forwarding entries, the bridge with a pod, and the chains.
func (n *flannelNode) build(t *testing.T, peers map[int]netip.Addr) {
	t.Helper()
	n.pod = testnet.NewNode(t, fmt.Sprint("pod", n.number))
	inside, err := os.Open(n.pod.NetNS())
	require.NoError(t, err)
	defer inside.Close()
	gateway := n.subnet().Addr().Next()
	require.NoError(t, n.Do(func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			return err
		}
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		mac := n.mac()
		vtep := &netlink.Vxlan{
			LinkAttrs: netlink.LinkAttrs{Name: "flannel.1", HardwareAddr: mac[:], MTU: eth0.Attrs().MTU - 50},
			VxlanId:   1, VtepDevIndex: eth0.Attrs().Index, SrcAddr: n.V4.AsSlice(), Port: 8472,
		}
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0", MTU: vtep.MTU}}
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth1", TxQLen: -1}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(inside.Fd()))}
		for _, l := range []netlink.Link{vtep, bridge, veth} {
			if err := netlink.LinkAdd(l); err != nil {
				return fmt.Errorf("%s: %w", l.Attrs().Name, err)
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
		}
		if err := netlink.LinkSetMaster(veth, bridge); err != nil {
			return err
		}
		for l, p := range map[netlink.Link]netip.Prefix{vtep: netip.PrefixFrom(n.subnet().Addr(), 32), bridge: netip.PrefixFrom(gateway, 24)} {
			a, err := netlink.ParseAddr(p.String())
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(l, a); err != nil {
				return err
			}
		}
		for number, underlay := range peers {
			peer := flannelNode{number: number}
			to, hardware := peer.subnet().Addr().AsSlice(), peer.mac()
			arp := &netlink.Neigh{LinkIndex: vtep.Index, State: netlink.NUD_PERMANENT, Type: syscall.RTN_UNICAST, IP: to, HardwareAddr: hardware[:]}
			fdb := &netlink.Neigh{LinkIndex: vtep.Index, State: netlink.NUD_PERMANENT, Family: syscall.AF_BRIDGE, Flags: netlink.NTF_SELF, IP: underlay.AsSlice(), HardwareAddr: hardware[:]}
			route := &netlink.Route{LinkIndex: vtep.Index, Scope: netlink.SCOPE_UNIVERSE, Dst: mask(peer.subnet()), Gw: to}
			route.SetFlag(syscall.RTNH_F_ONLINK)
			for _, err := range []error{netlink.NeighSet(arp), netlink.NeighSet(fdb), netlink.RouteReplace(route)} {
				if err != nil {
					return err
				}
			}
		}
		return nil
	}))
	require.NoError(t, n.pod.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(netip.PrefixFrom(n.podAddress(), 24).String())
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(eth0, a); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(eth0); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()})
	}))
	for _, rule := range []string{
		"-t filter -P FORWARD DROP",
		"-t filter -N FLANNEL-FWD", "-t filter -A FORWARD -j FLANNEL-FWD",
		"-t filter -A FLANNEL-FWD -s 10.244.0.0/16 -j ACCEPT", "-t filter -A FLANNEL-FWD -d 10.244.0.0/16 -j ACCEPT",
		"-t nat -N FLANNEL-POSTRTG", "-t nat -A POSTROUTING -j FLANNEL-POSTRTG",
		fmt.Sprintf("-t nat -A FLANNEL-POSTRTG -s %s -d 10.244.0.0/16 -j RETURN", n.subnet()),
		"-t nat -A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
	} {
		n.run(t, "iptables-nft "+rule)
	}
}

func (n *flannelNode) run(t *testing.T, command string) string {
	t.Helper()
	words := strings.Fields(command)
	out, err := n.Command(t.Context(), words[0], words[1:]...).CombinedOutput()
	require.NoError(t, err, "%s: %s", command, out)
	return string(out)
}

// TestAdopts: two nodes on which flanneld ran are taken over one after the other, while their pods talk.
func TestAdopts(t *testing.T) {
	if _, err := exec.LookPath("iptables-nft"); err != nil {
		if os.Getenv("PODWEFT_REQUIRE_KERNEL") == "1" {
			require.NoError(t, err, "apt install iptables")
		}
		t.Skip(err)
	}
	s := &stage{t: t}
	url, _ := startEtcd(t, vxlanConf)
	f := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 2, Outside: true})
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	one, two := &flannelNode{Node: f.Nodes[0], number: 1}, &flannelNode{Node: f.Nodes[1], number: 2}
	gone := netip.MustParseAddr("192.0.2.77")
	one.build(t, map[int]netip.Addr{2: two.V4, 9: gone})
	two.build(t, map[int]netip.Addr{1: one.V4, 9: gone})
	for _, n := range []*flannelNode{one, two} {
		var lease struct{ ID string }
		s.ask(url, "/v3/lease/grant", map[string]string{"TTL": "86400"}, &lease)
		key := fmt.Sprintf("%s/subnets/%s-24", etcd.DefaultPrefix, n.subnet().Addr())
		value := fmt.Sprintf(`{"PublicIP":%q,"PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":%q}}`, n.V4, n.mac())
		s.ask(url, "/v3/kv/put", map[string]any{"key": []byte(key), "value": []byte(value), "lease": lease.ID}, &struct{}{})
	}
	reaches(t, one.pod, one.podAddress(), two.podAddress())

	stop := pings(t, one.pod, one.podAddress(), two.podAddress())
	time.Sleep(50 * time.Millisecond)
	for i, n := range []*flannelNode{one, two} {
		a := newAgent(t, n.Node, fmt.Sprint("node-", i+1), url)
		before, err := a.netlink().LinkByName("flannel.1")
		require.NoError(t, err)
		plan, err := a.command("plan").CombinedOutput()
		require.NoError(t, err, "%s", plan)
		assert.Contains(t, string(plan), "flannel.1 alias podweft:podweft")
		assert.Contains(t, string(plan), "FLANNEL-POSTRTG")
		a.start()
		a.ready()
		for deadline := time.Now().Add(patience); !strings.Contains(a.log.String(), "flannel's routes and rules are removed"); time.Sleep(5 * time.Millisecond) {
			require.True(t, time.Now().Before(deadline), "flannel's rules are left: %s", a.log)
		}
		after, err := a.netlink().LinkByName("flannel.1")
		require.NoError(t, err)
		assert.Equal(t, before.Attrs().Index, after.Attrs().Index, "the device was made anew")
		assert.Equal(t, before.Attrs().HardwareAddr, after.Attrs().HardwareAddr)
		env, err := readSubnetFile(a.path("subnet.env"))
		require.NoError(t, err)
		assert.Equal(t, netip.PrefixFrom(n.subnet().Addr().Next(), 24).String(), env["FLANNEL_SUBNET"])
		for _, table := range []string{"nat", "filter"} {
			assert.NotContains(t, n.run(t, "iptables-nft -t "+table+" -S"), "FLANNEL")
		}
		s.a = a
		lines := s.entries()
		assert.Len(t, lines, 3, "one peer's: %q", lines)
		assert.NotContains(t, strings.Join(lines, " "), gone.String())
		plan, err = a.command("plan").CombinedOutput()
		require.NoError(t, err, "%s", plan)
		assert.Len(t, strings.Split(strings.TrimSpace(string(plan)), "\n"), 1, "nothing is left to do: %s", plan)
	}
	if *atLength {
		time.Sleep(5 * time.Second)
	}
	sent, lost := stop()
	assert.Zero(t, lost, "of %d pings", sent)
	t.Logf("%d pings, %d lost", sent, lost)
}
