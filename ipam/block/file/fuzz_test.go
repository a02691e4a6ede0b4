package file

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzParse reads what is no blocks.json: it is refused, or it keeps every rule of a Store.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"revision":3,"blocks":[{"prefix":"10.0.0.0/26","node":"a","shares":[{"prefix":"10.0.0.0/29","node":"a"}],"written":3}]}`))
	f.Add([]byte(`{"version":1,"revision":1,"blocks":[{"prefix":"fd00::/122","shares":[{"prefix":"fd00::/122","node":"a","doubted":"2026-01-02T03:04:05Z"}],"written":1}]}`))
	f.Add([]byte(`{"version":1,"revision":1,"blocks":[{}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		table, err := parse(text)
		if err != nil {
			return
		}
		for i, a := range table.Blocks {
			require.NoError(t, a.Validate())
			require.Contains(t, table.Within(a.Prefix)[0].Prefix.String(), a.Prefix.String())
			for _, b := range table.Blocks[:i] {
				require.False(t, a.Prefix.Overlaps(b.Prefix))
			}
		}
		again, err := json.Marshal(contents{Version: version, Revision: table.Revision, Blocks: table.Blocks})
		require.NoError(t, err)
		back, err := parse(again)
		require.NoError(t, err)
		require.Equal(t, table.Within(netip.MustParsePrefix("0.0.0.0/0")), back.Within(netip.MustParsePrefix("0.0.0.0/0")))
	})
}
