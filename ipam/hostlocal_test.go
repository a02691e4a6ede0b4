package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/flock"
)

// hostLocal writes a directory as host-local does: by address, the content of its file.
func hostLocal(t testing.TB, files map[string]string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "cbr0")
	require.NoError(t, os.Mkdir(dir, 0o755))
	for name, text := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return dir
}

func TestImportHostLocal(t *testing.T) {
	type pods map[Owner]string
	web, db := Owner{"cbr0", "web", "eth0"}, Owner{"cbr0", "db", "net1"}
	tests := []struct {
		name     string
		files    map[string]string
		want     pods
		problems []string
	}{
		{name: "nothing", files: map[string]string{"lock": "", "last_reserved_ip.0": "10.244.1.9"}, want: pods{}},
		{
			name: "two pods",
			files: map[string]string{
				"10.244.1.2": "web\r\neth0", "10.244.1.7": "db\r\nnet1", "last_reserved_ip.0": "10.244.1.7", "lock": "",
			},
			want: pods{web: "10.244.1.2", db: "10.244.1.7"},
		},
		{
			name:  "dual-stack is one allocation, in the order of the sets",
			files: map[string]string{"fd00:1::2": "web\r\neth0", "10.244.1.2": "web\r\neth0"},
			want:  pods{web: "10.244.1.2 fd00:1::2"},
		},
		{
			name:  "two interfaces of one container are two owners",
			files: map[string]string{"10.244.1.2": "web\r\neth0", "10.244.1.3": "web\r\nnet1"},
			want:  pods{web: "10.244.1.2", {"cbr0", "web", "net1"}: "10.244.1.3"},
		},
		{
			name:  "an old version's file",
			files: map[string]string{"10.244.1.2": "web"},
			want:  pods{web: "10.244.1.2"},
		},
		{
			name:  "line ends of other systems",
			files: map[string]string{"10.244.1.2": "web\neth0\n"},
			want:  pods{web: "10.244.1.2"},
		},
		{
			name:  "an address outside of the ranges",
			files: map[string]string{"172.16.9.9": "web\r\neth0"},
			want:  pods{web: "172.16.9.9"},
		},
		{
			name:  "a gateway that somebody has",
			files: map[string]string{"10.244.1.1": "web\r\neth0"},
			want:  pods{web: "10.244.1.1"},
		},
		{
			name:     "files that make no sense are left out",
			files:    map[string]string{"10.244.1.2": "web\r\neth0", "10.244.1.3": "", "10.244.1.4": "\r\neth0", "notes.txt": "web\r\neth0"},
			want:     pods{web: "10.244.1.2"},
			problems: []string{"10.244.1.3: names no container", "10.244.1.4: names no container", "notes.txt: is not named by an address"},
		},
		{
			name:     "an owner that is too long",
			files:    map[string]string{"10.244.1.2": string(make([]byte, 5000)), "10.244.1.3": "db\r\nnet1"},
			want:     pods{db: "10.244.1.3"},
			problems: []string{"use at most 300"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := hostLocal(t, tt.files)
			p := open(t, Config{Prefixes: prefixes("10.244.1.0/24", "fd00:1::/64")})

			got, problems, err := p.ImportHostLocal(t.Context(), dir, "cbr0")
			require.NoError(t, err)
			require.Len(t, problems, len(tt.problems), "%v", problems)
			for i, problem := range tt.problems {
				assert.ErrorIs(t, problems[i], podweft.ErrInvalid)
				assert.ErrorContains(t, problems[i], problem)
			}
			taken := pods{}
			for _, a := range got {
				taken[a.Owner] = addrs(a)
				held, err := p.Lookup(t.Context(), a.Owner)
				require.NoError(t, err)
				assert.Equal(t, a, held)
			}
			assert.Equal(t, tt.want, taken)
			verify(t, p)

			got, again, err := p.ImportHostLocal(t.Context(), dir, "cbr0")
			require.NoError(t, err)
			assert.Empty(t, got, "it is known already")
			assert.Len(t, again, len(problems))
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			assert.Len(t, left, len(tt.files), "the directory stays as it is")
		})
	}
}

func TestImportedAddressesAreNotGiven(t *testing.T) {
	files := map[string]string{}
	for i := 2; i <= 6; i++ {
		files[fmt.Sprintf("10.244.1.%d", i)] = fmt.Sprintf("old-%d\r\neth0", i)
	}
	p := open(t, Config{Prefixes: prefixes("10.244.1.0/29")})
	released, err := p.Allocate(t.Context(), pod("short-lived"))
	require.NoError(t, err)
	require.NoError(t, p.Release(t.Context(), released.Owner))

	_, _, err = p.ImportHostLocal(t.Context(), hostLocal(t, files), "cbr0")
	require.NoError(t, err)
	held, err := p.Lookup(t.Context(), Owner{"cbr0", "old-4", "eth0"})
	require.NoError(t, err)
	assert.Equal(t, []Address{{netip.MustParsePrefix("10.244.1.4/29"), netip.MustParseAddr("10.244.1.1")}}, held.Addresses)
	assert.WithinDuration(t, time.Now(), held.Since, time.Hour)

	_, err = p.Allocate(t.Context(), pod("new"))
	require.ErrorIs(t, err, ErrExhausted)
	require.NoError(t, p.Release(t.Context(), held.Owner))
	given, err := p.Allocate(t.Context(), pod("new"))
	require.NoError(t, err)
	assert.Equal(t, "10.244.1.4", addrs(given))
	verify(t, p)
}

// What the Pool knows goes before what host-local says: it is newer.
func TestImportMeetsAllocations(t *testing.T) {
	p := open(t, Config{Prefixes: prefixes("10.244.1.0/24"), Grace: time.Hour})
	for _, name := range []string{"a", "b", "gone"} { // .2, .3, .4
		_, err := p.Allocate(t.Context(), Owner{"cbr0", name, "eth0"})
		require.NoError(t, err)
	}
	require.NoError(t, p.Release(t.Context(), Owner{"cbr0", "gone", "eth0"}))
	got, problems, err := p.ImportHostLocal(t.Context(), hostLocal(t, map[string]string{
		"10.244.1.2": "a\r\neth0",     // known
		"10.244.1.3": "other\r\neth0", // b's
		"10.244.1.4": "new\r\neth0",   // kept back
		"10.244.1.9": "b\r\neth0",     // b has another
	}), "cbr0")
	require.NoError(t, err)
	require.Len(t, problems, 2)
	for _, err := range problems {
		assert.ErrorIs(t, err, ErrTaken)
	}
	assert.EqualError(t, problems[0], "10.244.1.3 of cbr0/other/eth0: address is taken by cbr0/b/eth0")
	assert.EqualError(t, problems[1], "10.244.1.9 of cbr0/b/eth0: address is taken: it holds 10.244.1.3 already")
	require.Len(t, got, 1)
	assert.Equal(t, "10.244.1.4", addrs(got[0]))
	verify(t, p)
}

// A plugin that is called to delete knows no ranges; the pod that it deletes may have been host-local's.
func TestImportWithoutRanges(t *testing.T) {
	path := storePath(t)
	ranged := open(t, Config{Path: path, Prefixes: prefixes("10.244.1.0/24")})
	first, err := ranged.Allocate(t.Context(), pod("first"))
	require.NoError(t, err)
	rangeless := open(t, Config{Path: path})
	_, _, err = rangeless.ImportHostLocal(t.Context(), hostLocal(t, map[string]string{"10.244.1.3": "web\r\neth0"}), "cbr0")
	require.NoError(t, err)
	second, err := ranged.Allocate(t.Context(), pod("second"))
	require.NoError(t, err)
	assert.Equal(t, []string{"10.244.1.2", "10.244.1.4"}, []string{addrs(first), addrs(second)})
	require.NoError(t, rangeless.Release(t.Context(), Owner{"cbr0", "web", "eth0"}))
	verify(t, ranged)

	fresh := open(t, Config{})
	got, _, err := fresh.ImportHostLocal(t.Context(), hostLocal(t, map[string]string{"10.244.1.3": "web\r\neth0"}), "cbr0")
	require.NoError(t, err)
	assert.Len(t, got, 1)
	verify(t, fresh)
}

// Plugins that start at the same time all want to import; one does.
func TestImportRaces(t *testing.T) {
	files := map[string]string{}
	for i := 2; i < 52; i++ {
		files[fmt.Sprintf("10.244.1.%d", i)] = fmt.Sprintf("old-%d\r\neth0", i)
	}
	dir := hostLocal(t, files)
	path := storePath(t)
	var wg sync.WaitGroup
	taken := make([]int, 10)
	for i := range taken {
		p := open(t, Config{Path: path, Prefixes: prefixes("10.244.1.0/24")})
		wg.Go(func() {
			got, problems, err := p.ImportHostLocal(t.Context(), dir, "cbr0")
			assert.NoError(t, err)
			assert.Empty(t, problems)
			taken[i] = len(got)
			a, err := p.Allocate(t.Context(), pod(fmt.Sprint("new-", i)))
			assert.NoError(t, err)
			assert.NotContains(t, files, addrs(a))
		})
	}
	wg.Wait()
	sum := 0
	for _, n := range taken {
		sum += n
	}
	assert.Equal(t, 50, sum)
	verify(t, open(t, Config{Path: path}))
}

// host-local may be at work, called with the configuration of before: what it gives out then is imported too.
func TestImportWaitsForHostLocal(t *testing.T) {
	dir := hostLocal(t, map[string]string{"10.244.1.2": "web\r\neth0", "lock": ""})
	f, err := os.Open(filepath.Join(dir, "lock"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, flock.Lock(t.Context(), f))
	p := open(t, Config{Prefixes: prefixes("10.244.1.0/24")})
	done := make(chan []Allocation)
	go func() {
		got, _, err := p.ImportHostLocal(t.Context(), dir, "cbr0")
		assert.NoError(t, err)
		done <- got
	}()
	select {
	case <-done:
		t.Fatal("did not wait")
	case <-time.After(20 * time.Millisecond):
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "10.244.1.3"), []byte("late\r\neth0"), 0o600))
	flock.Unlock(f)
	assert.Len(t, <-done, 2)
}

// A disk that fills up leaves nothing imported by half; the next import does all of it.
func TestImportIsInterrupted(t *testing.T) {
	dir := hostLocal(t, map[string]string{"10.244.1.2": "web\r\neth0", "10.244.1.3": "db\r\neth0"})
	cfg := Config{Path: storePath(t), Prefixes: prefixes("10.244.1.0/24")}
	full := open(t, cfg)
	full.store.write = func(*os.File, []byte, int64) error { return errors.New("disk full") }
	_, _, err := full.ImportHostLocal(t.Context(), dir, "cbr0")
	require.EqualError(t, err, "import from host-local: disk full")
	p := open(t, cfg)
	all, err := p.All(t.Context())
	require.NoError(t, err)
	assert.Empty(t, all)
	got, _, err := p.ImportHostLocal(t.Context(), dir, "cbr0")
	require.NoError(t, err)
	assert.Len(t, got, 2)
}

func TestImportOfNothing(t *testing.T) {
	p := open(t, Config{Prefixes: prefixes("10.244.1.0/24")})
	got, problems, err := p.ImportHostLocal(t.Context(), filepath.Join(t.TempDir(), "cbr0"), "cbr0")
	require.NoError(t, err)
	assert.Empty(t, got)
	assert.Empty(t, problems)
}

// A file of host-local may hold anything: it is taken, or it is a problem.
func FuzzHostLocalFile(f *testing.F) {
	for _, text := range []string{"", "web\r\neth0", "web", "\r\n", "web\neth0\nmore", "a/b\x00\r\n\xff"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := hostLocal(t, map[string]string{"10.244.1.2": string(text)})
		p := open(t, Config{Path: storePath(t), Prefixes: prefixes("10.244.1.0/24")})
		got, problems, err := p.ImportHostLocal(t.Context(), dir, "cbr0")
		require.NoError(t, err)
		require.Equal(t, 1, len(got)+len(problems))
		for _, a := range got {
			require.NotEmpty(t, a.Owner.Container)
			held, err := p.Lookup(t.Context(), a.Owner)
			require.NoError(t, err)
			require.Equal(t, a, held)
		}
		verify(t, p)
	})
}
