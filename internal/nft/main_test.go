package nft_test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"testing"

	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

var (
	ours  = nft.Table{Family: nft.INet, Name: "ours"}
	peers = nft.Set{Table: ours, Name: "peers", Key: nft.IPv4Addr, Interval: true}
	hosts = nft.Set{Table: ours, Name: "hosts", Key: nft.IPv4Addr}
	post  = nft.Chain{Table: ours, Name: "post", Base: nft.Base{Type: "nat", Hook: nft.Postrouting, Priority: nft.PrioritySrcNAT, Policy: nft.Accept}}
)

// fromPeers is the rule `ip saddr @peers masquerade fully-random`.
func fromPeers(not bool) nft.Rule {
	return nft.Rule{
		Table: ours, Chain: post.Name,
		Text:    "meta nfproto ipv4 ip saddr @peers masquerade fully-random",
		Comment: "pods leave",
		Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{unix.NFPROTO_IPV4}},
			&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
			&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: peers.Name, Invert: not},
			&expr.Masq{FullyRandom: true},
		},
	}
}

func open(t testing.TB, n *testnet.Node) *nft.Conn {
	t.Helper()
	c, err := nft.Open(n.NetNS())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// dial opens a Conn in a namespace of its own.
func dial(t testing.TB) (*nft.Conn, *testnet.Node) {
	t.Helper()
	n := testnet.NewNode(t, "node")
	return open(t, n), n
}

func commit(t testing.TB, c *nft.Conn, fill func(b *nft.Batch)) {
	t.Helper()
	var b nft.Batch
	fill(&b)
	require.NoError(t, c.Commit(t.Context(), &b))
}

func prefixes(texts ...string) []nft.Element {
	var elements []nft.Element
	for _, text := range texts {
		elements = append(elements, nft.Prefix(netip.MustParsePrefix(text)))
	}
	return elements
}

// addresses are n elements of a plain set, 10.0.0.0 and up.
func addresses(n int) []nft.Element {
	elements := make([]nft.Element, n)
	for i := range elements {
		elements[i] = nft.Element{Key: string([]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}
	}
	return elements
}

// nftList is what the nft program, where there is one, says of the table.
func nftList(t *testing.T, n *testnet.Node, table nft.Table) (string, bool) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		return "", false
	}
	out, err := n.Command(t.Context(), "nft", "list", "table", table.Family.String(), table.Name).CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out), true
}

func texts[T fmt.Stringer](all []T) []string {
	var texts []string
	for _, v := range all {
		texts = append(texts, v.String())
	}
	return texts
}
