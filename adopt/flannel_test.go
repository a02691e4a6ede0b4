package adopt_test

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft/adopt"
)

// TestRoutesAndLinks: flannel's links are marked and its routes step back, in both families; what is not flannel's stays.
func TestRoutesAndLinks(t *testing.T) {
	n, h := host(t)
	eth0, err := h.LinkByName("eth0")
	require.NoError(t, err)
	f4, f6 := vtep(t, h, "flannel.1", 1, n.V4), vtep(t, h, "flannel-v6.1", 1, n.V6)
	theirs := vtep(t, h, "flannel.7", 7, n.V4)
	require.NoError(t, h.LinkSetAlias(theirs, "somebody's"))
	other := vtep(t, h, "vx0", 9, n.V4)
	elsewhere := vtep(t, h, "flannel.2", 2, n.V4) // another network's
	route(t, h, "10.98.1.0/24", "10.98.1.0", elsewhere, 0)
	gateway := n.V4.Next().Next()
	route(t, h, "10.244.2.0/24", "10.244.2.0", f4, 0)
	route(t, h, "fd00:244:0:2::/64", "fd00:244:0:2::", f6, 0)
	route(t, h, "10.244.3.0/24", gateway.String(), eth0, 0) // as host-gw's, and DirectRouting's
	route(t, h, "10.244.9.0/24", "10.244.9.0", f4, 0)       // of a node that is gone
	foreign := map[string]int{"10.99.0.0": 0, "10.244.4.0": 77, "10.244.5.0": 0, "10.244.6.0": 0, "10.98.1.0": 0}
	route(t, h, "10.99.0.0/24", "10.99.0.0", f4, 0)                // outside the network
	route(t, h, "10.244.4.0/24", "10.244.4.0", other, 77)          // somebody gave it a metric
	route(t, h, "10.244.5.0/24", gateway.String(), eth0, 0)        // an administrator's, to what nobody leases
	route(t, h, "10.244.6.0/24", gateway.Next().String(), eth0, 0) // and another way than the lease says
	snap := snapshot(t, map[string]netip.Addr{
		"10.244.2.0/24": gateway, "fd00:244:0:2::/64": gateway, "10.244.3.0/24": gateway, "10.244.6.0/24": gateway,
	})

	f := newFlannel(t, n)
	plan, err := f.Plan(t.Context(), snap)
	require.NoError(t, err)
	assert.Len(t, plan, 6, "%s", plan)
	done, err := f.Begin(t.Context(), snap)
	require.NoError(t, err)
	assert.Equal(t, plan.String(), done.String())
	for l, want := range map[netlink.Link]string{f4: "podweft:podweft", f6: "podweft:podweft", theirs: "somebody's", elsewhere: ""} {
		now, err := h.LinkByIndex(l.Attrs().Index)
		require.NoError(t, err)
		assert.Equal(t, want, now.Attrs().Alias, l.Attrs().Name)
	}
	for to, want := range map[string]string{"10.244.2.0": "flannel.1", "fd00:244:0:2::": "flannel-v6.1", "10.244.3.0": "eth0", "10.244.9.0": "flannel.1"} {
		metric, link := way(t, h, to)
		assert.GreaterOrEqual(t, metric, 1<<20, to)
		assert.Equal(t, want, link, to)
	}
	stay := func(want map[string]int) {
		t.Helper()
		for to, metric := range want {
			now, _ := way(t, h, to)
			assert.Equal(t, metric, now, to)
		}
	}
	stay(foreign)
	done, err = f.Begin(t.Context(), snap)
	require.NoError(t, err)
	assert.Empty(t, done, "twice, as after a start that was cut short")

	route(t, h, "10.244.2.0/24", "10.244.2.0", other, 0) // as the driver's
	done, err = f.Finish(t.Context(), snap)
	require.ErrorContains(t, err, "route 10.244.3.0/24")
	require.ErrorContains(t, err, "no other route leads there yet")
	assert.Len(t, done, 4, "%s", done)
	stay(map[string]int{"10.244.2.0": 0, "10.244.9.0": -1})
	for _, to := range []string{"10.244.3.0", "fd00:244:0:2::"} {
		metric, _ := way(t, h, to)
		assert.GreaterOrEqual(t, metric, 1<<20, "%s is cut off", to)
	}
	route(t, h, "fd00:244:0:2::/64", "fd00:244:0:ff::", other, 0)
	done, err = f.Finish(t.Context(), snap)
	require.Error(t, err)
	assert.Len(t, done, 2, "a later one takes it: %s", done)
	done, err = f.Teardown(t.Context())
	require.NoError(t, err)
	assert.Len(t, done, 1, "%s", done)
	stay(map[string]int{"10.244.3.0": -1})
	stay(foreign)
}

// TestRules: flannel's chains go from both kinds of iptables, and its tables from nftables; what others wrote stays.
func TestRules(t *testing.T) {
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock")) // an ordinary user may not open the host's
	for _, program := range []string{"iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"} {
		t.Run(program, func(t *testing.T) {
			if _, err := exec.LookPath(program); err != nil {
				if os.Getenv("PODWEFT_REQUIRE_KERNEL") == "1" {
					require.NoError(t, err, "apt install iptables")
				}
				t.Skip(err)
			}
			n, _ := host(t)
			foreign := []string{"-t filter -A FORWARD -i lo -j DROP", "-t nat -A POSTROUTING -o lo -j MASQUERADE"}
			for _, rule := range append(foreign,
				`-t filter -N FLANNEL-FWD`, `-t filter -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD`,
				`-t filter -A FLANNEL-FWD -m comment --comment "flanneld forward" -j ACCEPT`,
				`-t nat -N FLANNEL-POSTRTG`, `-t nat -A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG`,
				`-t nat -A FLANNEL-POSTRTG -m comment --comment "flanneld masq" -j RETURN`,
			) {
				run(t, n, program+" "+rule)
			}
			f := newFlannel(t, n)
			if strings.HasSuffix(program, "-legacy") {
				require.NoError(t, f.WithoutNFTables(), "the old tables do without")
			}
			plan, err := f.Plan(t.Context(), snapshot(t, nil))
			require.NoError(t, err)
			done, err := f.Finish(t.Context(), snapshot(t, nil))
			require.NoError(t, err)
			assert.Len(t, done, 2)
			assert.Equal(t, plan.String(), done.String())
			var left []string
			for _, table := range []string{"filter", "nat"} {
				for line := range strings.Lines(run(t, n, program+" -t "+table+" -S")) {
					if !strings.HasPrefix(line, "-P ") {
						left = append(left, "-t "+table+" "+strings.TrimSpace(line))
					}
				}
			}
			assert.Equal(t, foreign, left)
		})
	}
	t.Run("nftables", func(t *testing.T) {
		if _, err := exec.LookPath("nft"); err != nil {
			if os.Getenv("PODWEFT_REQUIRE_KERNEL") == "1" {
				require.NoError(t, err, "apt install nftables")
			}
			t.Skip(err)
		}
		n, _ := host(t)
		for _, table := range []string{"ip flannel-ipv4", "ip6 flannel-ipv6", "ip others"} {
			run(t, n, "nft add table "+table)
		}
		done, err := newFlannel(t, n).Finish(t.Context(), snapshot(t, nil))
		require.NoError(t, err)
		assert.Len(t, done, 2)
		assert.Equal(t, "table ip others\n", run(t, n, "nft list tables"))
	})
}

// TestNothing: on a node that flannel has never seen, nothing is done.
func TestNothing(t *testing.T) {
	n, _ := host(t)
	f := newFlannel(t, n)
	for _, do := range []func() (int, error){
		func() (int, error) { plan, err := f.Begin(t.Context(), snapshot(t, nil)); return len(plan), err },
		func() (int, error) { plan, err := f.Finish(t.Context(), snapshot(t, nil)); return len(plan), err },
	} {
		changes, err := do()
		require.NoError(t, err)
		assert.Zero(t, changes)
	}
	_, err := adopt.NewFlannel(adopt.Config{NetNS: "/none"})
	require.Error(t, err)
}
