package vxlan_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/sabotage"
)

func TestRestart(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			o := newOverlay(t, mode.fabric, mode.change)
			o.apply(t)
			_, err := o.drivers[0].Teardown(t.Context()) // the agent makes it all anew
			require.NoError(t, err)
			var flows []sabotage.Flow
			for _, zero := range o.zeros(0) {
				flows = append(flows, sabotage.Flow{From: o.fabric.Nodes[1], To: zero.Addr()})
			}
			sabotage.RequireRestartUnnoticed(t, o.fabric.Nodes[0], o.specs[0], flows)
			o.requireRepaired(t, 0)
		})
	}
}
