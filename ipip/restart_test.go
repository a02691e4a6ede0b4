package ipip_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/sabotage"
)

func TestRestart(t *testing.T) {
	for _, s := range scenarios[1:] { // the first is a part of the last
		t.Run(s.name, func(t *testing.T) {
			o := newOverlay(t, s)
			if !o.supported(t) {
				return
			}
			o.apply(t)
			_, err := o.drivers[0].Teardown(t.Context()) // the agent makes it all anew
			require.NoError(t, err)
			var flows []sabotage.Flow
			for _, to := range o.targets(0) {
				flows = append(flows, sabotage.Flow{From: o.fabric.Nodes[1], To: to})
			}
			sabotage.RequireRestartUnnoticed(t, o.fabric.Nodes[0], o.specs[0], flows)
			o.requireRepaired(t, 0)
		})
	}
}
