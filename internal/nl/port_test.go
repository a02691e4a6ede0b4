package nl

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/testnet"
)

// TestPortsAtOnce: an answer is copied before the next one comes into the same buffer.
func TestPortsAtOnce(t *testing.T) {
	n := testnet.NewNode(t, "node")
	c, err := Dial(n.NetNS())
	require.NoError(t, err)
	defer c.Close()
	const links = 4
	var b Batch
	for i := range links {
		b.CreateBridge(Link{Name: fmt.Sprint("br", i), MAC: podweft.MAC{2, 0, 0, 0, 0, byte(i)}})
	}
	require.Empty(t, c.Do(t.Context(), &b))
	var all sync.WaitGroup
	for i := range links {
		all.Go(func() {
			for range 500 {
				p, err := c.Port(t.Context(), fmt.Sprint("br", i))
				if !assert.NoError(t, err) || !assert.Equal(t, podweft.MAC{2, 0, 0, 0, 0, byte(i)}, p.MAC) {
					return
				}
			}
		})
	}
	all.Wait()
}
