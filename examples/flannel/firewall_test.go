package flannel

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/testnet"
)

// TestPassesFirewall: Docker has set the host's FORWARD chain to DROP before the daemon is there, and somebody flushes it later.
func TestPassesFirewall(t *testing.T) {
	if _, err := exec.LookPath("iptables-nft"); err != nil {
		if os.Getenv("PODWEFT_REQUIRE_KERNEL") == "1" {
			require.NoError(t, err, "apt install iptables")
		}
		t.Skip(err)
	}
	url, _ := startEtcd(t, vxlanConf)
	f := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1, Outside: true})
	iptables := func(args string) string {
		out, err := f.Nodes[0].Command(t.Context(), "iptables-nft", strings.Fields(args)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	iptables("-P FORWARD DROP")
	a := newAgent(t, f.Nodes[0], "a", url)
	plan, err := a.command("plan").CombinedOutput()
	require.NoError(t, err, "%s", plan)
	assert.Contains(t, string(plan), "+ rule ip filter FORWARD ip saddr 10.244.0.0/16 accept")
	a.start()
	a.ready()
	assert.Contains(t, iptables("-S FORWARD"), "-A FORWARD -d 10.244.0.0/16 ")
	iptables("-F FORWARD")
	for deadline := time.Now().Add(patience); !strings.Contains(iptables("-S FORWARD"), "-A FORWARD -d 10.244.0.0/16 "); {
		require.True(t, time.Now().Before(deadline), "not repaired: %s", a.log)
		time.Sleep(10 * time.Millisecond)
	}
	require.NoError(t, a.kill(syscall.SIGTERM))
	out, err := a.command("cleanup").CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Equal(t, "-P FORWARD DROP\n", iptables("-S FORWARD"))
}
