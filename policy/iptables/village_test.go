package iptables_test

import (
	"net/netip"
	"testing"

	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/iptables"
)

// villageSpec closes all of the pods' addresses of node-1.
func villageSpec(t testing.TB) iptables.Spec {
	return iptables.Spec{Rules: compiled(t, world.Village(), "node-1"), Closed: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}
}
