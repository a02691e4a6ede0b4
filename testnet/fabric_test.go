package testnet_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/testnet"
)

func TestFabricNodesReachEachOther(t *testing.T) {
	tests := []struct {
		name string
		cfg  testnet.FabricConfig
		want []string // the last node's addresses
	}{
		{"default", testnet.FabricConfig{}, []string{"192.0.2.2", "2001:db8::2"}},
		{"v4 only", testnet.FabricConfig{Nodes: 3, V4: netip.MustParsePrefix("10.9.0.0/16")}, []string{"10.9.0.3"}},
		{"v6 only", testnet.FabricConfig{Nodes: 3, V6: netip.MustParsePrefix("fd00:9::/112")}, []string{"fd00:9::3"}},
		{"many", testnet.FabricConfig{Nodes: 12}, []string{"192.0.2.12", "2001:db8::c"}},
		{"with an outside", testnet.FabricConfig{Outside: true}, []string{"192.0.2.2", "2001:db8::2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := testnet.NewFabric(t, tt.cfg)
			last := f.Nodes[len(f.Nodes)-1]
			assert.Equal(t, fmt.Sprintf("node%d", len(f.Nodes)), last.Name)
			assert.Equal(t, tt.want, texts(last.Addrs()))

			targets := f.Nodes
			if tt.cfg.Outside {
				targets = append(targets, f.Outside)
				assert.Equal(t, []string{testnet.OutsideV4, testnet.OutsideV6}, texts(f.Outside.Addrs()))
			}
			for _, from := range f.Nodes {
				for _, to := range targets {
					for _, addr := range to.Addrs() {
						_, err := from.Ping(t.Context(), addr)
						assert.NoError(t, err)
					}
				}
			}
		})
	}
}

// 1,560 neighbours in each family, where the kernel's tables take 1,024.
func TestFortyNodesAtOnce(t *testing.T) {
	f := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 40})
	var all sync.WaitGroup
	for _, from := range f.Nodes {
		p := pinger(t, from)
		for _, to := range f.Nodes {
			for _, addr := range to.Addrs() {
				all.Go(func() { assert.NoError(t, pingOnce(t.Context(), p, addr)) })
			}
		}
	}
	all.Wait()
}

func TestFabricMTU(t *testing.T) {
	for _, mtu := range []int{1280, 1500, 9000} {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			f := testnet.NewFabric(t, testnet.FabricConfig{MTU: mtu})
			for _, to := range f.Nodes[1].Addrs() {
				_, err := f.Nodes[0].Echo(t.Context(), to, testnet.Echo{Size: mtu, DontFragment: true})
				assert.NoError(t, err)
				_, err = f.Nodes[0].Echo(t.Context(), to, testnet.Echo{Size: mtu + 1, DontFragment: true})
				assert.ErrorIs(t, err, unix.EMSGSIZE)
				_, err = f.Nodes[0].Echo(t.Context(), to, testnet.Echo{Size: mtu + 1})
				assert.NoError(t, err, "in fragments")
			}
		})
	}
}

func TestFabricLinks(t *testing.T) {
	f := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 3, MTU: 1400})
	links, err := f.Nodes[2].Links()
	require.NoError(t, err)
	require.Len(t, links, 2)
	eth0 := links[1]
	assert.Positive(t, eth0.Index)
	eth0.Index = 0 // the kernel's choice
	assert.Equal(t, testnet.Link{
		Name: "eth0", Kind: "veth", MAC: podweft.MAC{0x02, 5: 3}, MTU: 1400, Up: true,
		Addrs: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.3/24"), netip.MustParsePrefix("2001:db8::3/64"), netip.MustParsePrefix("fe80::3/64"),
		},
	}, eth0)

	ports, err := f.Switch.Links()
	require.NoError(t, err)
	var names []string
	for _, p := range ports {
		names = append(names, p.Name)
		assert.Equal(t, p.Name == "lo", len(p.Addrs) > 0)
	}
	assert.ElementsMatch(t, []string{"lo", "br0", "node1", "node2", "node3"}, names)
}

func TestOutsideKnowsNoPods(t *testing.T) {
	f := testnet.NewFabric(t, testnet.FabricConfig{Outside: true})
	pod := map[bool]netip.Prefix{
		true: netip.MustParsePrefix("10.244.1.2/32"), false: netip.MustParsePrefix("fd00:244::2/128"),
	}
	for _, to := range f.Outside.Addrs() {
		addAddress(t, f.Nodes[0], "lo", pod[to.Is4()])
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := f.Nodes[0].Echo(ctx, to, testnet.Echo{From: pod[to.Is4()].Addr()})
		cancel()
		assert.ErrorIs(t, err, context.DeadlineExceeded)
	}
}

func TestCutCable(t *testing.T) {
	f := testnet.NewFabric(t, testnet.FabricConfig{})
	a, b := f.Nodes[0], f.Nodes[1]
	require.NoError(t, f.Switch.SetDown("node2"))
	for _, to := range b.Addrs() {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := a.Ping(ctx, to)
		cancel()
		assert.Error(t, err)
	}
	require.NoError(t, f.Switch.SetUp("node2"))
	for _, to := range b.Addrs() {
		assert.Eventually(t, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err := a.Ping(ctx, to)
			return err == nil
		}, 10*time.Second, time.Millisecond)
	}
}

func TestBuildRejects(t *testing.T) {
	v4, v6 := netip.MustParsePrefix(testnet.DefaultV4), netip.MustParsePrefix(testnet.DefaultV6)
	tests := []struct {
		name string
		cfg  testnet.FabricConfig
		want string
	}{
		{"nodes", testnet.FabricConfig{Nodes: -1}, "Nodes: -1 is not a number of nodes that a switch takes: use 1 to 1022"},
		{"ports", testnet.FabricConfig{Nodes: 1023, Outside: true, V6: v6},
			"Nodes: 1023 is not a number of nodes that a switch takes: use 1 to 1022"},
		{"families", testnet.FabricConfig{V4: v6, V6: v4}, "V4: 2001:db8::/64 is not an IPv4 network: use one like 192.0.2.0/24\n" +
			"V6: 192.0.2.0/24 is not an IPv6 network: use one like 2001:db8::/64"},
		{"room", testnet.FabricConfig{Nodes: 2, Outside: true, V4: netip.MustParsePrefix("192.0.2.0/30")},
			"V4: 192.0.2.0/30 has no room for 3 machines: use a shorter prefix"},
		{"MTU", testnet.FabricConfig{MTU: 1279}, "MTU: 1279 is not an MTU for this underlay: use 1280 to 65535"},
		{"v4's MTU", testnet.FabricConfig{MTU: 67, V4: v4}, "MTU: 67 is not an MTU for this underlay: use 68 to 65535"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := testnet.Build(tt.cfg)
			assert.EqualError(t, err, tt.want)
			assert.ErrorIs(t, err, podweft.ErrInvalid)
		})
	}
}

func texts(addrs []netip.Addr) []string {
	var all []string
	for _, a := range addrs {
		all = append(all, a.String())
	}
	return all
}
