package calico_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/examples/calico"
	"github.com/podweft/podweft/examples/internal/certs"
)

// TestTLS: an agent has an etcd that serves who shows a certificate, and is its own client. A command with a certificate of its own sees
// what is there; one without is refused.
func TestTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	n := w.Nodes()[0]
	const url = "https://127.0.0.1:2379"
	ca := certs.NewCA(t)
	cert, key := ca.Issue(t, "server")
	agent := w.launch(t, n, "--store-dir=", "--etcd-listen="+url, "--etcd-data="+t.TempDir(),
		"--etcd-listen-ca-file="+ca.File, "--etcd-listen-cert-file="+cert, "--etcd-listen-key-file="+key)
	w.add(t, n, "pod")
	agent.wait(t, "its blocks", func(s calico.Status) bool { return len(s.Blocks) == 2 })
	assert.NotContains(t, agent.log.String(), "etcd is open")

	client := w.flags(n, "--store-dir=", "--etcd-endpoints="+url, "--etcd-ca-file="+ca.File)
	show := func(flags ...string) (string, error) {
		out, err := command(t.Context(), n, append(append(client, flags...), "ipam", "show")...).CombinedOutput()
		return string(out), err
	}
	cert, key = ca.Issue(t, "client")
	shown, err := show("--etcd-cert-file="+cert, "--etcd-key-file="+key)
	require.NoError(t, err, shown)
	assert.Equal(t, 2, strings.Count(shown, n.Name), shown)
	shown, err = show()
	assert.Error(t, err, "a stranger sees the blocks")
	assert.NotContains(t, shown, n.Name)
}
