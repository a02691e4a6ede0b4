package iptables_test

import (
	"testing"

	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/iptables"
)

// TestBesideOthers has each variant stand beside half of the others, of which -whole is all.
func TestBesideOthers(t *testing.T) {
	first := 0
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		if *whole {
			world.BesideOthers(t, keep(cfg), 0, 1)
			return
		}
		world.BesideOthers(t, keep(cfg), first, len(variants))
		first++
	})
}

func TestBesideIPVS(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) { world.BesideIPVS(t, keep(cfg)) })
}
