package nftables_test

import (
	"flag"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/nftables"
	"github.com/podweft/podweft/testnet"
)

var (
	clusters = flag.Int("clusters", 30, "random clusters whose packets are sent")
	seed     = flag.Uint64("seed", 0, "of the random clusters; 0 is another one each time")
)

// TestScenarios sends the packets of the whole table: what arrives is what must come about, which is what Evaluate says. A first packet
// fares alike whether or not those that follow are asked about.
func TestScenarios(t *testing.T) {
	for _, strict := range []bool{false, true} {
		t.Run(fmt.Sprintf("strict=%t", strict), func(t *testing.T) {
			connections := world.Scenarios(t, func(t testing.TB, n *testnet.Node) world.Keeper {
				k := newKeeper(t, n, nftables.Config{})
				k.spec.Strict, k.unread = strict, strict
				return k
			}, 0, 1)
			assert.Greater(t, connections, 3000)
		})
	}
}

// TestRandomClusters: Strict comes and goes too. -clusters=10000 is the long run.
func TestRandomClusters(t *testing.T) {
	world.RandomClusters(t, func(t testing.TB, n *testnet.Node) world.Keeper {
		k := newKeeper(t, n, nftables.Config{})
		k.before = func(turn int) { k.spec.Strict = turn%4 > 1 }
		return k
	}, *clusters, *seed)
}
