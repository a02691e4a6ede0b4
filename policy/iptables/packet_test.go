package iptables_test

import (
	"flag"
	"testing"

	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/iptables"
)

var (
	clusters = flag.Int("clusters", 10, "random clusters whose packets are sent, of each variant")
	whole    = flag.Bool("whole", false, "each variant goes through all scenarios and stands beside all others, and not only its part of them")
	seed     = flag.Uint64("seed", 0, "of the random clusters; 0 is another one each time")
)

// TestScenarios has each variant take a quarter of the table, of which -whole is all: rules and sets are the same text for both.
func TestScenarios(t *testing.T) {
	first := 0
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		if *whole {
			world.Scenarios(t, keep(cfg), 0, 1)
			return
		}
		world.Scenarios(t, keep(cfg), first, 2*len(variants))
		first++
	})
}

func TestRandomClusters(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) { world.RandomClusters(t, keep(cfg), *clusters, *seed) })
}
