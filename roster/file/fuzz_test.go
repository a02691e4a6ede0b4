package file

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzParse reads what is no nodes.json: it is refused, or it can be written and read again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"boot":"b","revision":2,"nodes":[{"name":"a","as":7,"written":1,"since":2,"ttl":9,"deadline":9}]}`))
	f.Add([]byte(`{"version":1,"revision":1,"nodes":[{"name":"a","labels":{"rack":"r"},"clusterID":"10.0.0.1","written":1}]}`))
	f.Add([]byte(`{"version":1,"nodes":[{}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parse(text)
		if err != nil {
			return
		}
		again, err := json.Marshal(c)
		require.NoError(t, err)
		back, err := parse(again)
		require.NoError(t, err)
		require.True(t, c.Nodes().Equal(back.Nodes()), "%s\n%s", text, again)
	})
}
