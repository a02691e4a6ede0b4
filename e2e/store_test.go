package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/e2e/cluster"
	"github.com/podweft/podweft/kube"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/storetest"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// newStore returns a Store that ends with the test.
func newStore(t *testing.T, cfg kube.Config) *kube.Store {
	t.Helper()
	s, err := kube.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestStore: the Kubernetes store keeps a Store's promises, but for those about the choice of a subnet, which is the cluster's.
func TestStore(t *testing.T) {
	c := cluster.Start(t, nil)
	var cfg kube.Config // of the store that was made last: each test makes one
	storetest.Run(t, storetest.Config{
		New: func(t *testing.T, n *subnet.Network) subnet.Store {
			t.Cleanup(c.DeleteNodes)
			cfg = kube.Config{Client: c.Admin(), Network: n}
			return newStore(t, cfg)
		},
		Another: func(t *testing.T, _ subnet.Store) subnet.Store { return newStore(t, cfg) },
		Give: func(_ *testing.T, _ subnet.Store, node string, p subnet.Prefixes) {
			var podCIDRs []string
			for prefix := range p.All() {
				podCIDRs = append(podCIDRs, prefix.String())
			}
			c.AddNode(node, podCIDRs...)
		},
	})
}
