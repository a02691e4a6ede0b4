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
	for first, strict := range []bool{false, true} {
		t.Run(fmt.Sprintf("strict=%t", strict), func(t *testing.T) {
			world.BesideOthers(t, func(t testing.TB, n *testnet.Node) world.Keeper {
				k := newKeeper(t, n, nftables.Config{})
				k.spec.Strict = strict
				return k
			}, first, 2)
		})
	}
}
