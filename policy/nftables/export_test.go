package nftables

import (
	"context"
	"fmt"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/sysctl"
)

// WithoutBridgeNetfilter makes the driver find none, as on a kernel without the module.
func (d *Driver) WithoutBridgeNetfilter(missing bool) {
	d.gate.Ensure = sysctl.Ensure
	if missing {
		d.gate.Ensure = func(_, key, _ string) error { return fmt.Errorf("%w: %s", podweft.ErrNotSupported, key) }
	}
}

// WithUnknownFlags makes the driver ask for a table that no kernel knows how to make, as one that has owners is to older kernels.
func (d *Driver) WithUnknownFlags() { d.flags.Store(1 << 7) }

// Unowned is unowned.
func (d *Driver) Unowned(err error) bool { return d.unowned(err) }

// Prepare returns what remains of an Apply when everything has been read and compared: what is sent, and what the kernel does.
func (d *Driver) Prepare(ctx context.Context, spec Spec) (write func() error, err error) {
	c, _, err := d.compare(ctx, spec)
	return func() error { return d.write(ctx, c) }, err
}
