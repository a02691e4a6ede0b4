package nat_test

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// nodeSpec is what a node of a usual cluster wants.
func nodeSpec() nat.Spec {
	return nat.Spec{
		Masquerade: prefixes("10.244.1.0/24", "fd00:244:0:1::/64"),
		Exempt:     prefixes("10.244.0.0/16", "fd00:244::/48"),
	}
}

var (
	ours        = nft.Table{Family: nft.INet, Name: "podweft-nat"}
	postrouting = nft.Chain{Table: ours, Name: "postrouting", Base: nft.Base{Type: "nat", Hook: nft.Postrouting, Priority: 100, Policy: nft.Accept}}
	pods4       = nft.Set{Table: ours, Name: "pods4", Key: nft.IPv4Addr, Interval: true}
	exempt4     = nft.Set{Table: ours, Name: "exempt4", Key: nft.IPv4Addr, Interval: true}
)

func newDriver(t testing.TB, cfg nat.Config) *nat.Driver {
	t.Helper()
	d, err := nat.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func apply(t testing.TB, d *nat.Driver, spec nat.Spec) string {
	t.Helper()
	plan, err := d.Apply(t.Context(), spec)
	require.NoError(t, err)
	return plan.String()
}

// someone is another program that changes tables.
func someone(t testing.TB, n *testnet.Node) *nft.Conn {
	t.Helper()
	c, err := nft.Open(n.NetNS())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func change(t testing.TB, c *nft.Conn, fill func(b *nft.Batch)) {
	t.Helper()
	var b nft.Batch
	fill(&b)
	require.NoError(t, c.Commit(t.Context(), &b))
}

// ruleset is what the nft program, where there is one, lists.
func ruleset(t *testing.T, n *testnet.Node) (string, bool) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		return "", false
	}
	out, err := n.Command(t.Context(), "nft", "list", "ruleset").CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out), true
}

func lines(text ...string) string { return strings.Join(text, "\n") + "\n" }
