package calico

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ipam/block/memory"
	"github.com/podweft/podweft/roster"
	rostermemory "github.com/podweft/podweft/roster/memory"
)

// TestForgetInACluster: in Kubernetes it is the kubelet's silence that makes a node count as dead. One whose agent lives all the same joins
// again, and keeps its blocks unless it is forced.
func TestForgetInACluster(t *testing.T) {
	pool := netip.MustParsePrefix("10.244.0.0/16")
	for name, tt := range map[string]struct {
		alive time.Duration // for how long it counts so
		lives bool          // its agent joins again
		force bool
		tried bool // before, by a call that was ended while it waited
		want  string
	}{
		"machine is off":             {time.Nanosecond, false, false, false, ""},
		"kubelet alone":              {time.Nanosecond, true, false, false, "forget gone: its agent lives, though its kubelet is silent: end it first, or say --force"},
		"kubelet, and forced":        {time.Nanosecond, true, true, false, ""},
		"kubelet alone, tried again": {time.Nanosecond, true, false, true, "forget gone: its agent lives, though its kubelet is silent: end it first, or say --force"},
		"counts as alive":            {time.Hour, true, false, false, "forget gone: the cluster counts it as alive: delete its Node, or try again when its kubelet has been silent for a minute, or say --force"},
		"alive, and forced":          {time.Hour, true, true, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nodes, blocks := rostermemory.New(), memory.New()
				join := func() { require.NoError(t, nodes.Join(t.Context(), roster.Node{Name: "gone"}, tt.alive)) }
				join()
				time.Sleep(time.Second)
				c, err := block.New(block.Config{Store: blocks, Node: "gone", Pools: []block.Pool{{Prefix: pool}}})
				require.NoError(t, err)
				_, err = c.Claim(t.Context(), netip.Addr{})
				require.NoError(t, err)
				if tt.lives {
					time.AfterFunc(roster.DefaultTTL/3, join)
				}
				o := Options{Config: Config{Node: "here", Nodes: nodes, Blocks: blocks}.withDefaults(), cluster: &cluster{}, gone: "gone", Force: tt.force}
				var out strings.Builder
				if tt.tried {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					require.ErrorIs(t, o.forget(ctx, &out), context.DeadlineExceeded)
				}
				err = o.forget(t.Context(), &out)
				left, listErr := blocks.Blocks(t.Context(), pool)
				require.NoError(t, listErr)
				if tt.want != "" {
					require.EqualError(t, err, tt.want)
					assert.Len(t, left, 1)
					assert.Empty(t, out.String())
					return
				}
				require.NoError(t, err)
				assert.Empty(t, left)
				assert.Regexp(t, `^- node gone\n- block 10\.244\.\S+ of gone\n$`, out.String())
			})
		})
	}
}
