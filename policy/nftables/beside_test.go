package nftables_test

import (
	"fmt"
	"testing"

	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/nftables"
	"github.com/podweft/podweft/testnet"
)

// TestBesideOthers stands beside half of the others with Strict, and beside the other half without.
func TestBesideOthers(t *testing.T) {
	eachStrict(t, func(t *testing.T, first int, keep func(testing.TB, *testnet.Node) world.Keeper) {
		world.BesideOthers(t, keep, first, 2)
	})
}

func TestBesideIPVS(t *testing.T) {
	eachStrict(t, func(t *testing.T, _ int, keep func(testing.TB, *testnet.Node) world.Keeper) {
		world.BesideIPVS(t, keep)
	})
}

func eachStrict(t *testing.T, test func(t *testing.T, i int, keep func(testing.TB, *testnet.Node) world.Keeper)) {
	for i, strict := range []bool{false, true} {
		t.Run(fmt.Sprintf("strict=%t", strict), func(t *testing.T) {
			test(t, i, func(t testing.TB, n *testnet.Node) world.Keeper {
				k := newKeeper(t, n, nftables.Config{})
				k.spec.Strict = strict
				return k
			})
		})
	}
}
