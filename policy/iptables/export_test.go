package iptables

import (
	"fmt"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/sysctl"
)

// WithoutBridgeNetfilter makes the driver meet a kernel that lacks br_netfilter, or not any more.
func (d *Driver) WithoutBridgeNetfilter(lacks bool) {
	d.gate.Ensure = func(netns, key, value string) error {
		if lacks {
			return fmt.Errorf("set %s: %w", key, podweft.ErrNotSupported)
		}
		return sysctl.Ensure(netns, key, value)
	}
}
