package e2e

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// startRouter runs a router beside the machines, as the switch at the top of a rack is one. It knows of Services by BGP alone.
func (w *world) startRouter() {
	w.t.Helper()
	args := []string{"tor", "--id=" + w.beside.V4.String(), "--links=eth0"}
	for _, m := range w.machines {
		args = append(args, "--peer="+m.V4.String()+",64512")
	}
	var said buffer
	router := w.beside.Command(context.WithoutCancel(w.t.Context()), filepath.Join(imageFiles(w.t, "calico"), "bin/podweft-calico"), args...)
	router.Stderr = &said
	require.NoError(w.t, router.Start())
	w.t.Cleanup(func() {
		_ = router.Process.Kill()
		_ = router.Wait()
		if w.t.Failed() {
			w.t.Logf("the router: %s", &said)
		}
	})
}

// arrive has the router reach Services by their addresses, for which each node answers. Pods themselves it is not asked for here: nodes
// of a full mesh tell it of each other's pods too, each with itself as next hop, and what goes one way and returns another kube-proxy
// drops. Nor is it asked for IPv6, of which its sessions are not.
func (w *world) arrive() {
	w.t.Helper()
	for _, at := range w.lookup(w.lone, "web") {
		if !strings.Contains(at, ":") {
			assert.Regexp(w.t, "^web-.* to ", w.from(w.beside, page(at, 80)), "a Service")
		}
	}
}
