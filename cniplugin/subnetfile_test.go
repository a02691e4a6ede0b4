package cniplugin_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/internal/nl"
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

// TestCheckWithoutLease: a pod is whole while the daemon's file is away, and what it lacks is seen all the same.
func TestCheckWithoutLease(t *testing.T) {
	for _, kind := range []string{"flannel", "podweft-cni"} {
		t.Run(kind, func(t *testing.T) {
			n := newNode(t)
			pod := testnet.NewNode(t, "pod")
			conf := n.conf(map[string]any{"type": kind})
			r := n.call(t, kind, "ADD", conf, about(pod)...)
			require.Zero(t, r.code, r)
			conf["prevResult"] = result(r)
			require.NoError(t, os.Remove(filepath.Join(n.dir, "subnet.env")))
			checked := n.call(t, kind, "CHECK", conf, about(pod)...)
			require.Zero(t, checked.code, checked)

			conn := dial(t, pod)
			var b nl.Batch
			require.NoError(t, conn.Routes(t.Context(), func() { b = nl.Batch{} }, func(r nl.Route) {
				if r.Prefix.String() == "10.244.0.0/16" { // the lease says so
					b.DeleteRoute(r)
				}
			}))
			require.Equal(t, 1, b.Len())
			require.NoError(t, errors.Join(conn.Do(t.Context(), &b)...))
			checked = n.call(t, kind, "CHECK", conf, about(pod)...)
			assert.Equal(t, cniplugin.CodeMissing, checked.Code, checked)
			deleted := n.call(t, kind, "DEL", conf, about(pod)...)
			require.Zero(t, deleted.code, deleted)
		})
	}
}
