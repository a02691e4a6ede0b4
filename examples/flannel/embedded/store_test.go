package embedded_test

import (
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/etcd"
	"github.com/podweft/podweft/subnet/storetest"
)

// place is where one test's Stores are.
type place struct {
	server, prefix string
	operator       *clientv3.Client
}

func (p place) store(t testing.TB, endpoint string) *etcd.Store {
	t.Helper()
	s, err := etcd.New(etcd.Config{Endpoints: []string{endpoint}, Prefix: p.prefix})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func (p place) configure(t testing.TB, n *subnet.Network) {
	t.Helper()
	text, err := json.Marshal(n)
	require.NoError(t, err)
	put(t, p.operator, p.prefix+"/config", string(text))
}

func TestStore(t *testing.T) {
	for _, server := range servers {
		t.Run(server.name, func(t *testing.T) {
			url := server.start(t)
			op := operator(t, url)
			var mu sync.Mutex
			places := map[subnet.Store]place{}
			cables := map[subnet.Store]*cable{}
			storetest.Run(t, storetest.Config{
				New: func(t *testing.T, n *subnet.Network) subnet.Store {
					p := place{server: url, prefix: prefix(t), operator: op}
					if n != nil {
						p.configure(t, n)
					}
					c := newCable(t, url)
					s := p.store(t, c.url)
					mu.Lock()
					defer mu.Unlock()
					places[s], cables[s] = p, c
					return s
				},
				Another: func(t *testing.T, s subnet.Store) subnet.Store { return places[s].store(t, url) },
				SetNetwork: func(t *testing.T, s subnet.Store, n *subnet.Network) {
					places[s].configure(t, n)
				},
				// A lost connection does not end a watch. That etcd has forgotten what came meanwhile does.
				Disconnect: func(t *testing.T, s subnet.Store, meanwhile func()) {
					cables[s].set(true)
					meanwhile()
					now, err := op.Get(t.Context(), "/")
					require.NoError(t, err)
					_, err = op.Compact(t.Context(), now.Header.Revision)
					require.NoError(t, err)
					cables[s].set(false)
				},
				TTL:      2 * time.Second, // etcd keeps no shorter ones
				Patience: 30 * time.Second,
			})
		})
	}
}
