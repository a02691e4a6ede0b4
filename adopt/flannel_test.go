package adopt_test

import (
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
	route(t, h, "10.244.2.0/24", "10.244.2.0", f4, 0)
	route(t, h, "fd00:244:0:2::/64", "fd00:244:0:2::", f6, 0)
	route(t, h, "10.244.3.0/24", n.V4.Next().Next().String(), eth0, 0) // as host-gw's, and DirectRouting's
	route(t, h, "10.99.0.0/24", "10.99.0.0", f4, 0)                    // outside the network
	route(t, h, "10.244.4.0/24", "10.244.4.0", other, 77)              // somebody gave it a metric

	f := newFlannel(t, n)
	plan, err := f.Plan(t.Context(), network(t))
	require.NoError(t, err)
	assert.Len(t, plan, 5, "%s", plan)
	done, err := f.Begin(t.Context(), network(t))
	require.NoError(t, err)
	assert.Equal(t, plan.String(), done.String())
	for _, l := range []netlink.Link{f4, f6} {
		now, err := h.LinkByIndex(l.Attrs().Index)
		require.NoError(t, err)
		assert.Equal(t, "podweft:podweft", now.Attrs().Alias)
	}
	now, err := h.LinkByIndex(theirs.Attrs().Index)
	require.NoError(t, err)
	assert.Equal(t, "somebody's", now.Attrs().Alias)
	for to, want := range map[string]string{"10.244.2.0": "flannel.1", "fd00:244:0:2::": "flannel-v6.1", "10.244.3.0": "eth0"} {
		metric, link := way(t, h, to)
		assert.GreaterOrEqual(t, metric, 1<<20, to)
		assert.Equal(t, want, link, to)
	}
	for to, want := range map[string]int{"10.99.0.0": 0, "10.244.4.0": 77} {
		metric, _ := way(t, h, to)
		assert.Equal(t, want, metric, to)
	}
	done, err = f.Begin(t.Context(), network(t))
	require.NoError(t, err)
	assert.Empty(t, done, "twice, as after a start that was cut short")

	done, err = f.Finish(t.Context(), network(t))
	require.NoError(t, err)
	assert.Len(t, done, 3, "%s", done)
	for to, want := range map[string]int{"10.244.2.0": -1, "fd00:244:0:2::": -1, "10.244.3.0": -1, "10.99.0.0": 0, "10.244.4.0": 77} {
		metric, _ := way(t, h, to)
		assert.Equal(t, want, metric, to)
	}
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
			plan, err := f.Plan(t.Context(), network(t))
			require.NoError(t, err)
			done, err := f.Finish(t.Context(), network(t))
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
		done, err := newFlannel(t, n).Finish(t.Context(), network(t))
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
		func() (int, error) { plan, err := f.Begin(t.Context(), network(t)); return len(plan), err },
		func() (int, error) { plan, err := f.Finish(t.Context(), network(t)); return len(plan), err },
	} {
		changes, err := do()
		require.NoError(t, err)
		assert.Zero(t, changes)
	}
	_, err := adopt.NewFlannel(adopt.Config{NetNS: "/none"})
	require.Error(t, err)
}
