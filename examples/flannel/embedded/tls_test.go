package embedded_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/examples/flannel/embedded"
	"github.com/podweft/podweft/examples/internal/certs"
	"github.com/podweft/podweft/examples/internal/loopback"
	"github.com/podweft/podweft/subnet/etcd"
)

func secure(url string) string { return strings.Replace(url, "http:", "https:", 1) }

// issue is what a server shows, and whom it asks for something signed by the same CA.
func issue(t testing.TB, ca *certs.CA, name string) embedded.TLS {
	t.Helper()
	cert, key := ca.Issue(t, name)
	return embedded.TLS{CA: ca.File, Cert: cert, Key: key}
}

// ask asks a server how it is.
func ask(t testing.TB, url string, as *tls.Config) (string, error) {
	t.Helper()
	way := &http.Transport{TLSClientConfig: as}
	defer way.CloseIdleConnections()
	r, err := (&http.Client{Transport: way, Timeout: patience}).Get(url)
	if err != nil {
		return "", err
	}
	return r.Status, r.Body.Close()
}

// TestTLS: three members and their clients have certificates; who has none, or another CA's, is served by nobody.
func TestTLS(t *testing.T) {
	ca, peers, stranger := certs.NewCA(t), certs.NewCA(t), certs.NewCA(t)
	members := make([]embedded.Config, 3)
	var urls, cluster []string
	for i := range members {
		name := fmt.Sprint("m", i)
		members[i] = embedded.Config{
			Name: name, Dir: t.TempDir(), Client: secure(loopback.FreeURL(t)), Peer: secure(loopback.FreeURL(t)),
			ClientTLS: issue(t, ca, name), PeerTLS: issue(t, peers, name),
		}
		urls, cluster = append(urls, members[i].Client), append(cluster, name+"="+members[i].Peer)
	}
	for i := range members {
		members[i].Cluster = strings.Join(cluster, ",")
		startMember(t, members[i])
	}
	cert, key := ca.Issue(t, "client")
	client := ca.Client(t, cert, key)
	operator, err := clientv3.New(clientv3.Config{Endpoints: urls, TLS: client, Logger: zap.NewNop()})
	require.NoError(t, err)
	defer operator.Close()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err = operator.Put(ctx, "/tls/config", sixteen)
		cancel()
		if err == nil {
			break
		}
		require.True(t, time.Now().Before(deadline), "etcd does not serve: %v", err)
	}
	open := func() *etcd.Store {
		s, err := etcd.New(etcd.Config{Endpoints: urls, Prefix: "/tls", TLS: client})
		require.NoError(t, err)
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	seen := follow(t, open())
	for i := range members {
		_, err := open().Acquire(t.Context(), claim(i))
		require.NoError(t, err)
		seen.until("the lease", has(fmt.Sprint("node-", i)))
	}

	serves := func(url string, as *tls.Config) { // two are enough for the clients above: the third may be late
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			status, err := ask(t, url, as)
			if err == nil && status == "200 OK" {
				return
			}
			require.True(t, time.Now().Before(deadline), "%s: %s, %v", url, status, err)
		}
	}
	foreign, foreignKey := stranger.Issue(t, "client")
	for _, m := range members {
		serves(m.Client+"/health", client)
		serves(m.Peer+"/version", peers.Client(t, m.PeerTLS.Cert, m.PeerTLS.Key))
		for _, refused := range []struct {
			url string
			as  *tls.Config
		}{
			{m.Client + "/health", ca.Client(t, "", "")},
			{m.Client + "/health", ca.Client(t, foreign, foreignKey)},
			{m.Peer + "/version", peers.Client(t, "", "")},
			{m.Peer + "/version", peers.Client(t, cert, key)},
		} {
			_, err := ask(t, refused.url, refused.as)
			assert.ErrorContains(t, err, "remote error: tls: ", refused.url)
		}
	}
}

// TestTLSForAnybody: without a CA for clients it is the server alone that shows a certificate.
func TestTLSForAnybody(t *testing.T) {
	ca := certs.NewCA(t)
	cert, key := ca.Issue(t, "server")
	cfg := embedded.Config{Dir: t.TempDir(), Client: secure(loopback.FreeURL(t)), ClientTLS: embedded.TLS{Cert: cert, Key: key}}
	s, err := embedded.Start(t.Context(), cfg)
	require.NoError(t, err)
	defer s.Stop()
	status, err := ask(t, cfg.Client+"/health", ca.Client(t, "", ""))
	require.NoError(t, err)
	assert.Equal(t, "200 OK", status)
	_, err = ask(t, cfg.Client+"/health", certs.NewCA(t).Client(t, "", ""))
	require.ErrorContains(t, err, "certificate signed by unknown authority")
}

func TestConfigs(t *testing.T) {
	all := issue(t, certs.NewCA(t), "server")
	const plain, safe = "http://127.0.0.1:2379", "https://127.0.0.1:2379"
	for _, tc := range []struct {
		name string
		cfg  embedded.Config
		want string
	}{
		{"no URL", embedded.Config{Client: "127.0.0.1:2379"}, `Client: "127.0.0.1:2379" is not a URL: `},
		{"no certificate", embedded.Config{Client: safe}, `Client: "https://127.0.0.1:2379" has no certificate to show: give ClientTLS one`},
		{"no TLS", embedded.Config{Client: plain, ClientTLS: all}, `Client: "http://127.0.0.1:2379" does not show the certificate of ClientTLS: write https`},
		{"no key", embedded.Config{Client: safe, ClientTLS: embedded.TLS{Cert: "crt"}}, "ClientTLS.Key: is missing"},
		{"a CA alone", embedded.Config{Client: safe, ClientTLS: embedded.TLS{CA: "ca"}}, "ClientTLS.Cert: is missing"},
		{"members without a certificate", embedded.Config{Client: plain, Peer: safe}, "Peer: \"https://127.0.0.1:2379\" has no certificate to show"},
		{"members without TLS", embedded.Config{Client: plain, Peer: plain, PeerTLS: all}, "does not show the certificate of PeerTLS"},
		{"members of anybody's CA", embedded.Config{Client: plain, Peer: safe, PeerTLS: embedded.TLS{Cert: "crt", Key: "key"}}, "PeerTLS.CA: is missing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.cfg.Dir = t.TempDir()
			_, err := embedded.Start(t.Context(), tc.cfg)
			require.ErrorIs(t, err, podweft.ErrInvalid)
			assert.ErrorContains(t, err, tc.want)
		})
	}
	for want, tls := range map[string]embedded.TLS{
		"ClientTLS: open /none: no such file":                                {Cert: "/none", Key: all.Key},
		"ClientTLS: tls: private key does not match":                         {Cert: all.Cert, Key: issue(t, certs.NewCA(t), "other").Key},
		"ClientTLS.CA: " + all.Key + " has no certificate in it: name a PEM": {Cert: all.Cert, Key: all.Key, CA: all.Key},
	} {
		_, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Client: safe, ClientTLS: tls})
		assert.ErrorContains(t, err, want)
	}
}

func TestOpen(t *testing.T) {
	for _, tc := range []struct {
		name         string
		client, peer string
		want         []string
	}{
		{"to this machine", "http://127.0.0.1:2379", "http://localhost:2380", nil},
		{"to this machine in IPv6", "http://[::1]:2379", "", nil},
		{"to all", "http://0.0.0.0:2379", "http://[2001:db8::1]:2380", []string{"http://0.0.0.0:2379", "http://[2001:db8::1]:2380"}},
		{"to members", "https://192.0.2.1:2379", "http://node-1:2380", []string{"http://node-1:2380"}},
		{"to those who have certificates", "https://192.0.2.1:2379", "https://192.0.2.1:2380", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			assert.Equal(t, tc.want, embedded.Config{Client: tc.client, Peer: tc.peer}.Open())
		})
	}
}
