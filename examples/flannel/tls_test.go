package flannel

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/examples/internal/certs"
	"github.com/podweft/podweft/examples/internal/loopback"
	"github.com/podweft/podweft/subnet/etcd"
	"github.com/podweft/podweft/testnet"
)

// TestTLS: one node's daemon has an etcd that serves who shows a certificate. It is its own client; another node's daemon has a
// certificate too, and who has none is refused.
func TestTLS(t *testing.T) {
	ca := certs.NewCA(t)
	cert, key := ca.Issue(t, "server")
	url := strings.Replace(loopback.FreeURL(t), "http:", "https:", 1)
	f := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 2, Outside: true})
	a := newAgent(t, f.Nodes[0], "a", "", "--etcd-listen", url, "--etcd-data", t.TempDir(),
		"--etcd-listen-cafile", ca.File, "--etcd-listen-certfile", cert, "--etcd-listen-keyfile", key)
	a.start()
	cert, key = ca.Issue(t, "client")
	configureTLS(t, url, &http.Transport{TLSClientConfig: ca.Client(t, cert, key)})
	b := newAgent(t, f.Nodes[1], "b", url, "--etcd-cafile", ca.File, "--etcd-certfile", cert, "--etcd-keyfile", key)
	b.start()
	a.ready()
	b.ready()
	reaches(t, f.Nodes[0], a.pod(), b.pod())
	assert.NotContains(t, a.log.String(), "etcd is open", "on the loopback, and with certificates besides")

	stranger := &http.Transport{TLSClientConfig: ca.Client(t, "", "")}
	defer stranger.CloseIdleConnections()
	_, err := (&http.Client{Transport: stranger}).Get(url + "/health") //nolint:bodyclose // there is none
	assert.ErrorContains(t, err, "certificate required")
}

// configureTLS is configure for an etcd that wants certificates. It waits until it serves.
func configureTLS(t testing.TB, url string, way *http.Transport) {
	t.Helper()
	defer way.CloseIdleConnections()
	body, err := json.Marshal(map[string][]byte{"key": []byte(etcd.DefaultPrefix + "/config"), "value": []byte(vxlanConf)})
	require.NoError(t, err)
	client := &http.Client{Transport: way, Timeout: patience}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		r, err := client.Post(url+"/v3/kv/put", "application/json", bytes.NewReader(body))
		if err == nil {
			_, _ = io.Copy(io.Discard, r.Body)
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return
			}
		}
		require.True(t, time.Now().Before(deadline), "etcd does not serve at %s: %v", url, err)
	}
}
