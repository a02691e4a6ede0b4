package calico_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/examples/calico"
)

// TestServe: an agent says how it is doing, before it is ready and after.
func TestServe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	cfg := w.config(t, w.Nodes()[0], pools(calico.Always))
	agent, err := calico.New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- agent.Serve(ctx, "") }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-ended)
	})
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(cfg.StateDir, "calico-"+calico.DefaultNetwork+".sock"))
	}}}
	get := func(path string) (int, string) {
		for until := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			r, err := client.Get("http://agent" + path)
			if err != nil && time.Now().Before(until) {
				continue // it does not listen yet
			}
			require.NoError(t, err)
			defer r.Body.Close()
			body, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			return r.StatusCode, string(body)
		}
	}
	code, text := get("/readyz")
	assert.Equal(t, http.StatusServiceUnavailable, code, text)
	code, _ = get("/healthz")
	assert.Equal(t, http.StatusOK, code)
	go func() { ended <- agent.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-ended)
	})
	select {
	case <-agent.Ready():
	case <-time.After(patience):
		require.Fail(t, "it is not ready")
	}
	code, text = get("/readyz")
	assert.Equal(t, http.StatusOK, code, text)
	_, text = get("/metrics")
	for _, line := range []string{"podweft_calico_ready 1", "podweft_calico_blocks 2", "podweft_calico_pod_mtu_bytes 1430", "podweft_calico_objects_failing 0"} {
		assert.Contains(t, text, line+"\n")
	}
	_, text = get("/status")
	assert.Contains(t, text, `"pool": "v4"`)

	require.ErrorIs(t, agent.Run(ctx), calico.ErrRunning)
	require.ErrorContains(t, agent.Serve(ctx, ""), "another agent of this network is running here")
	code, _ = get("/healthz")
	assert.Equal(t, http.StatusOK, code, "the first one is still there")
}
