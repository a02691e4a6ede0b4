package iptables

import (
	"context"
	"fmt"

	"github.com/podweft/podweft"
)

// bridgeCalls are what takes the packets between ports of a bridge to the hooks of IP: br_netfilter's own switches, which each
// namespace has for itself since Linux 5.3.
var bridgeCalls = []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"}

// bridges sees to it that the packets between ports of spec's bridges come by our chains.
func (d *Driver) bridges(_ context.Context, spec Spec) (podweft.Plan, error) {
	if spec.Rules == nil || len(spec.Bridges) == 0 {
		return nil, nil
	}
	for _, key := range bridgeCalls {
		if err := d.ensure(d.cfg.NetNS, key, "1"); err != nil {
			return nil, fmt.Errorf("policies between ports of a bridge need br_netfilter: %w", err)
		}
	}
	return nil, nil
}
