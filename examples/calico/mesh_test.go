package calico_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/podweft/podweft/examples/calico"
)

// TestReflectors: nodes speak to the reflector alone, with signed sessions, and know each other all the same.
func TestReflectors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	agents := make([]*process, 3)
	for i := range agents {
		flags := []string{"--bgp-mesh=reflectors", "--bgp-password=swordfish", "--ipv4-pool-vxlan=CrossSubnet", "--ipv6-pool-vxlan=CrossSubnet"}
		if i == 0 {
			flags = append(flags, "--cluster-id=10.0.0.1")
		}
		agents[i] = w.launch(t, w.Nodes()[i], flags...)
	}
	for i, a := range agents {
		want := 1
		if i == 0 {
			want = 2
		}
		s := a.wait(t, "the others' blocks", func(s calico.Status) bool { return len(s.Routes) == 4 && s.BGP.Established == want })
		assert.Len(t, s.BGP.Peers, want)
		for _, r := range s.Routes {
			assert.NotEqual(t, "none", r.Way, r.String())
		}
	}
}
