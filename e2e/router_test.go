package e2e

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// startRouter runs a router beside the machines, as the switch at the top of a rack is one. It knows of pods and Services by BGP alone.
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

// arrive has the router reach pods, of which each node tells it its own, and Services by their addresses, for which each node answers.
func (w *world) arrive() {
	w.t.Helper()
	for _, pod := range w.web {
		for family, ip := range pod.Status.PodIPs {
			assert.Equal(w.t, fmt.Sprintf("%s to %s", pod.Name, w.beside.Addrs()[family]), w.from(w.beside, page(ip.IP, 8080)), "a pod")
		}
	}
	for _, at := range w.lookup(w.lone, "web", w.network.families) {
		assert.Regexp(w.t, "^web-.* to ", w.from(w.beside, page(at, 80)), "a Service")
	}
}
