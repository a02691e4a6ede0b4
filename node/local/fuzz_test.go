package local

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// again decodes what a value encodes to, which must be the same value.
func again[T any](t *testing.T, v T, decode func([]byte) (T, error)) {
	t.Helper()
	line, err := json.Marshal(v)
	require.NoError(t, err)
	back, err := decode(line)
	require.NoError(t, err, "%s", line)
	twice, err := json.Marshal(back)
	require.NoError(t, err)
	require.Equal(t, string(line), string(twice))
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"network":"cbr0","container":"a","interface":"eth0","addresses":["10.244.1.2/24"],"boot":"b","since":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"network":"cbr0","container":"a","interface":"eth0","hostPorts":[{"protocol":"tcp","hostIP":"fd00::1","host":80,"pod":8080}],"delegate":"e30="}`))
	f.Add([]byte(`{"network":"../x","container":"","interface":"a/b","since":"9999-12-31T23:59:59Z"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		rec, err := decodeRecord(raw)
		if err != nil {
			return
		}
		require.NoError(t, rec.Validate())
		require.NotContains(t, rec.Container+rec.Network+rec.Interface, "/")
		again(t, rec, decodeRecord)
	})
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"version":1,"verb":"attach","waitMilliseconds":5,"record":{"network":"cbr0","container":"a","interface":"eth0"}}`))
	f.Add([]byte(`{"version":1,"verb":"detach","keys":[{"network":"cbr0","container":"a","interface":"eth0"}]}`))
	f.Add([]byte(`{"version":1,"verb":"claim","claim":{"key":{"network":"cbr0","container":"a","interface":"eth0"},"want":["10.0.0.1","fd00::1"]}}`))
	f.Add([]byte(`{"version":2,"verb":"status"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := decodeRequest(raw)
		if err != nil {
			require.NotEqual(t, codeFailed, codeOf(err), "the plugin is told what is wrong: %v", err)
			return
		}
		again(t, r, decodeRequest)
	})
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte(`{"version":1,"addresses":[{"prefix":"10.0.0.1/32","gateway":"169.254.1.1"}]}`))
	f.Add([]byte(`{"version":1,"status":{"ready":true,"attachments":3}}`))
	f.Add([]byte(`{"version":1,"error":{"code":"again","text":"later"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, verb := range []string{verbClaim, verbStatus} {
			decode := func(line []byte) (response, error) { return decodeResponse(verb, line) }
			if r, err := decode(raw); err == nil {
				again(t, r, decode)
			}
		}
	})
}
