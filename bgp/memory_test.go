package bgp

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func path(prefix, peer string) Path {
	return Path{Prefix: netip.MustParsePrefix(prefix), NextHop: netip.MustParseAddr(peer), Peer: netip.MustParseAddr(peer)}
}

func stale(p Path) Path { p.Stale = true; return p }

func TestMemory(t *testing.T) {
	a, b := path("10.1.0.0/24", "192.0.2.1"), path("10.2.0.0/24", "192.0.2.2")
	c := path("fd00::/64", "192.0.2.1")
	moved := path("10.1.0.0/24", "192.0.2.3")
	never := func(netip.Addr, bool) bool { return false }
	for _, tt := range []struct {
		name    string
		settled func(netip.Addr, bool) bool
		late    bool
		learned []Path
		own     string
		want    []Path
	}{
		{"nothing learned yet", never, false, nil, "", []Path{stale(a), stale(b), stale(c)}},
		{"a fresh path wins", never, false, []Path{moved}, "", []Path{moved, stale(b), stale(c)}},
		{"a peer has told all of one family", func(p netip.Addr, v4 bool) bool { return v4 && p == a.Peer }, false, nil, "", []Path{stale(b), stale(c)}},
		{"our own by now", never, false, nil, "10.2.0.0/24", []Path{stale(a), stale(c)}},
		{"too long ago", never, true, []Path{b}, "", []Path{b}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "paths.json")
			require.NoError(t, write(file, []Path{a, b, c}))
			m, restarting, err := recall(file, time.Minute)
			require.NoError(t, err)
			require.True(t, restarting)
			now := time.Now()
			if tt.late {
				now = now.Add(2 * time.Minute)
			}
			m.forget(now, tt.settled)
			assert.Equal(t, tt.want, m.add(tt.learned, func(p netip.Prefix) bool { return p.String() == tt.own }))
		})
	}
}

func TestRecallOfNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "paths.json")
	require.NoError(t, write(file, []Path{path("10.1.0.0/24", "192.0.2.1")}))
	noted, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, tt := range []struct {
		name, content string
		keep          time.Duration
		wantErr       string
	}{
		{"another boot", strings.Replace(string(noted), `"boot":"`, `"boot":"x`, 1), time.Minute, ""},
		{"graceful restart is off", string(noted), 0, ""},
		{"damaged", string(noted[:20]), time.Minute, "recall paths from"},
		{"empty", "", time.Minute, "recall paths from"},
		{"another type", `[1]`, time.Minute, "recall paths from"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(file, []byte(tt.content), 0o600))
			m, restarting, err := recall(file, tt.keep)
			if tt.wantErr != "" {
				require.ErrorContains(t, err, tt.wantErr)
			} else {
				require.NoError(t, err)
			}
			assert.False(t, restarting)
			assert.Empty(t, m.paths)
		})
	}
	_, restarting, err := recall(filepath.Join(t.TempDir(), "absent"), time.Minute)
	require.NoError(t, err)
	assert.False(t, restarting)
}

// Whatever stands in the file, a path that is recalled can be handed on.
func FuzzRecall(f *testing.F) {
	f.Add([]byte(`{"boot":"BOOT","paths":[{"prefix":"10.1.0.0/24","nextHop":"192.0.2.1","peer":"192.0.2.1","communities":["64512:1"]}]}`))
	f.Add([]byte(`{"boot":"BOOT","paths":[{},{"prefix":""}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		file := filepath.Join(t.TempDir(), "paths.json")
		require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(string(content), "BOOT", bootID())), 0o600))
		m, _, err := recall(file, time.Minute)
		if err != nil {
			return
		}
		for _, p := range m.paths {
			require.True(t, p.Prefix.IsValid() && p.NextHop.IsValid() && p.Peer.IsValid() && p.Stale)
		}
		again := filepath.Join(t.TempDir(), "again.json")
		require.NoError(t, write(again, m.paths))
		n, _, err := recall(again, time.Minute)
		require.NoError(t, err)
		require.Equal(t, m.paths, n.paths)
	})
}
