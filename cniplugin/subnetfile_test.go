package cniplugin_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/testnet"
)

// TestLeaseComes: a pod that is started before its node's agent waits for the lease, and nobody waits who cannot get one.
func TestLeaseComes(t *testing.T) {
	for _, tt := range []struct {
		kind string
		conf map[string]any
	}{
		{"flannel", map[string]any{"type": "flannel"}},
		{"podweft-cni", nil},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			n := newNode(t)
			pod := testnet.NewNode(t, "pod")
			require.NoError(t, os.Remove(filepath.Join(n.dir, "subnet.env")))
			n.wait = time.Millisecond
			r := n.call(t, tt.kind, "ADD", n.conf(tt.conf), about(pod)...)
			assert.Equal(t, cniplugin.CodeTryAgain, r.Code, r)

			n.wait = time.Hour
			r = n.call(t, tt.kind, "STATUS", n.conf(tt.conf), about(pod)...)
			assert.Equal(t, cniplugin.CodeNotReady, r.Code, "a runtime that asks whether pods can come is told at once: %s", r)
			came := make(chan reply)
			go func() { came <- n.call(t, tt.kind, "ADD", n.conf(tt.conf), about(pod)...) }()
			select {
			case r := <-came:
				t.Errorf("nothing was waited for: %s", r)
				return
			case <-time.After(50 * time.Millisecond):
			}
			n.lease(t, subnetEnv)
			r = <-came
			require.Zero(t, r.code, r)
			assert.Equal(t, "10.244.1.2/24", r.IPs[0].Address)
		})
	}
}
