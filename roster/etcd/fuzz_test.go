package etcd

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/podweft/podweft/roster"
)

// FuzzDecode reads values that we did not write: a Problem and nothing else, or a node as a Store may have it.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"name":"a","underlay":{"v4":"192.0.2.1"},"as":64512,"clusterID":"10.0.0.1","labels":{"rack":"r"}}`))
	f.Add([]byte(`{"name":"b"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		n := decode("a", &mvccpb.KeyValue{Key: []byte("/nodes/known/a"), Value: text, ModRevision: 7})
		require.Equal(t, "a", n.Name)
		if n.Problem != nil {
			require.True(t, n.Says(roster.Node{Name: "a"}))
			return
		}
		require.NoError(t, n.Validate())
		again, err := json.Marshal(n)
		require.NoError(t, err)
		require.True(t, n.Says(decode("a", &mvccpb.KeyValue{Value: again})))
	})
}
