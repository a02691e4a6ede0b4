package local_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/node/local"
)

func records(t testing.TB, dir, boot string) *local.Records {
	t.Helper()
	r, err := local.Open(dir, boot)
	require.NoError(t, err)
	return r
}

// full is a record with everything in it.
func full(container string) local.Record {
	return local.Record{
		Network: "cbr0", Container: container, Interface: "eth0",
		NetNS: "/var/run/netns/" + container, HostName: "veth1", MAC: "0e:1d:2c:3b:4a:59",
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.1.2/24"), netip.MustParsePrefix("fd00:1::2/64")},
		HostPorts: []local.HostPort{
			{Protocol: "tcp", HostIP: netip.MustParseAddr("192.0.2.1"), Host: 8080, Pod: 80}, {Protocol: "udp", Host: 53, Pod: 53, KeepSource: true},
		},
		Pod:      local.Pod{Namespace: "default", Name: "web", UID: "1234"},
		Delegate: []byte(`{"type":"macvlan"}`),
		Lease:    "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_MTU=1450\n",
	}
}

func names(all []local.Record) (names []string) {
	for _, rec := range all {
		names = append(names, rec.Key().String())
	}
	return names
}

func TestRecords(t *testing.T) {
	r := records(t, filepath.Join(t.TempDir(), "run", "attachments"), "boot-1")
	all, problems, err := r.All("")
	require.NoError(t, err, "there is no directory yet")
	assert.Empty(t, all)
	assert.Empty(t, problems)
	require.NoError(t, r.Remove(full("a").Key()))
	_, err = r.Get(full("a").Key())
	require.ErrorIs(t, err, local.ErrNoRecord)

	want := full("a")
	require.NoError(t, r.Put(want))
	got, err := r.Get(want.Key())
	require.NoError(t, err)
	assert.Equal(t, "boot-1", got.Boot)
	assert.WithinDuration(t, time.Now(), got.Since, time.Minute)
	want.Boot, want.Since, want.Uptime = got.Boot, got.Since, got.Uptime
	assert.Equal(t, want, got)

	want.HostName = "veth2"
	require.NoError(t, r.Put(want))
	got, err = r.Get(want.Key())
	require.NoError(t, err)
	assert.Equal(t, want, got)

	other := full("a")
	other.Network = "storage"
	require.NoError(t, r.Put(other))
	second := full("a")
	second.Interface = "eth1"
	require.NoError(t, r.Put(second))
	all, problems, err = r.All("")
	require.NoError(t, err)
	assert.Empty(t, problems)
	assert.Equal(t, []string{"cbr0/a/eth0", "cbr0/a/eth1", "storage/a/eth0"}, names(all))
	all, _, err = r.All("storage")
	require.NoError(t, err)
	assert.Equal(t, []string{"storage/a/eth0"}, names(all))

	require.NoError(t, r.Remove(want.Key()))
	require.NoError(t, r.Remove(want.Key()), "again")
	all, _, err = r.All("cbr0")
	require.NoError(t, err)
	assert.Equal(t, []string{"cbr0/a/eth1"}, names(all))
}

// What is written by hand is what package json would write.
func TestRecordsAreJSON(t *testing.T) {
	bare := local.Record{Network: "n", Container: "c", Interface: "eth0"}
	odd := full("odd")
	odd.NetNS, odd.Pod = "/run/\"net\\ns\"/<a>\x01\u00e9\u2028", local.Pod{Name: "web"}
	dated := full("dated")
	dated.Since = time.Date(2026, 1, 2, 3, 4, 5, 60, time.UTC)
	dir := t.TempDir()
	r := records(t, dir, "boot-1")
	for _, want := range []local.Record{full("a"), bare, odd, dated} {
		require.NoError(t, r.Put(want))
		got, err := os.ReadFile(filepath.Join(dir, strings.ReplaceAll(want.Key().String(), "/", ":")))
		require.NoError(t, err)
		back, err := r.Get(want.Key())
		require.NoError(t, err)
		want.Boot, want.Since, want.Uptime = "boot-1", cmp.Or(want.Since, back.Since), back.Uptime
		assert.Equal(t, want, back)
		text, err := json.Marshal(want)
		require.NoError(t, err)
		assert.Equal(t, string(text), string(got))
	}
}

func TestRecordIsChecked(t *testing.T) {
	tests := []struct {
		name   string
		change func(*local.Record)
		want   string
	}{
		{"no network", func(r *local.Record) { r.Network = "" }, `network: "" is not the name of a network`},
		{"a way out", func(r *local.Record) { r.Network = "../../etc" }, `network: "../../etc" is not the name of a network`},
		{"a hidden network", func(r *local.Record) { r.Network = ".new1" }, "is not the name of a network"},
		{"a long container", func(r *local.Record) { r.Container = strings.Repeat("a", 200) }, "is not the ID of a container"},
		{"separator", func(r *local.Record) { r.Container = "a:b" }, `container: "a:b" is not the ID of a container`},
		{"no interface", func(r *local.Record) { r.Interface = "" }, `interface: "" is not the name of an interface`},
		{"dots", func(r *local.Record) { r.Interface = ".." }, "is not the name of an interface"},
		{"a long interface", func(r *local.Record) { r.Interface = "sixteen-letters-" }, "is not the name of an interface"},
		{"space", func(r *local.Record) { r.Interface = "eth 0" }, "is not the name of an interface"},
		{"no address", func(r *local.Record) { r.Addresses = make([]netip.Prefix, 1) }, "addresses[0]: invalid Prefix is not a pod's address"},
		{"protocol", func(r *local.Record) { r.HostPorts[0].Protocol = "TCP" }, `hostPorts[0].protocol: "TCP" is not tcp, udp or sctp`},
		{"host port", func(r *local.Record) { r.HostPorts[1].Host = 0 }, "hostPorts[1].host: 0 is not a port"},
		{"pod port", func(r *local.Record) { r.HostPorts[1].Pod = 0 }, "hostPorts[1].pod: 0 is not a port"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "attachments")
			rec := full("a")
			tt.change(&rec)
			err := records(t, dir, "boot-1").Put(rec)
			require.ErrorIs(t, err, podweft.ErrInvalid)
			assert.ErrorContains(t, err, tt.want)
			assert.NoDirExists(t, dir)
		})
	}
	r := records(t, t.TempDir(), "")
	_, err := r.Get(local.Key{Network: "n", Container: "../c", Interface: "i"})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	require.ErrorIs(t, r.Remove(local.Key{Network: "n", Container: "c", Interface: "i/.."}), podweft.ErrInvalid)
}

func TestRecordsOfAnEarlierBootAreVoid(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, records(t, dir, "boot-1").Put(full("a")))
	now := records(t, dir, "boot-2")
	_, err := now.Get(full("a").Key())
	require.ErrorIs(t, err, local.ErrNoRecord)
	require.NoError(t, now.Put(full("b")))
	all, problems, err := now.All("")
	require.NoError(t, err)
	assert.Empty(t, problems)
	assert.Equal(t, []string{"cbr0/b/eth0"}, names(all))
	require.NoError(t, now.Put(full("a")), "the same container may come again")
	assert.Len(t, entries(t, dir), 2)
}

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

func TestBadRecordsAreLeftOut(t *testing.T) {
	dir := t.TempDir()
	r := records(t, dir, "boot-1")
	require.NoError(t, r.Put(full("good")))
	good, err := os.ReadFile(filepath.Join(dir, "cbr0:good:eth0"))
	require.NoError(t, err)
	for name, text := range map[string]string{
		"cbr0:empty:eth0":  "",
		"cbr0:half:eth0":   string(good[:len(good)/2]),
		"cbr0:copied:eth0": string(good),
		"cbr0:odd:eth0":    strings.Replace(strings.ReplaceAll(string(good), "good", "odd"), "10.244.1.2/24", "10.244.1.2/99", 1),
		"notes.txt":        "do not delete",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "cbr0:dir:eth0"), 0o700))

	all, problems, err := r.All("")
	require.NoError(t, err)
	assert.Equal(t, []string{"cbr0/good/eth0"}, names(all))
	assert.Len(t, problems, 6)
	for i, name := range []string{"copied", "dir", "empty", "half", "odd", "notes.txt"} {
		assert.ErrorContains(t, problems[i], name)
	}
	assert.ErrorContains(t, problems[0], "it is of cbr0/good/eth0")
	require.NoError(t, r.Sweep())
	assert.Len(t, entries(t, dir), 7, "what is no record stays")
}

// TestUnreadRecord: one that cannot be read now is not one that is not there, nor one that makes no sense.
func TestUnreadRecord(t *testing.T) {
	dir := t.TempDir()
	r := records(t, dir, "boot-1")
	require.NoError(t, r.Put(full("good")))
	path := filepath.Join(dir, "cbr0:bad:eth0")
	require.NoError(t, os.Symlink("/proc/self/mem", path)) // EIO: nothing is mapped at zero
	_, err := r.Get(full("bad").Key())
	require.ErrorIs(t, err, local.ErrUnread)
	require.ErrorIs(t, err, syscall.EIO)
	for _, list := range []func(string) ([]local.Record, []error, error){r.All, local.NewReader(r).All} {
		_, _, err = list("")
		require.ErrorIs(t, err, local.ErrUnread)
	}
	require.NoError(t, r.Sweep())
	require.NoError(t, os.Remove(path))
	all, problems, err := r.All("")
	require.NoError(t, err)
	assert.Empty(t, problems)
	assert.Equal(t, []string{full("good").Key().String()}, names(all))
}

// TestProbe leaves nothing, and says why nothing can be written.
func TestProbe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "attachments")
	require.NoError(t, records(t, dir, "").Probe())
	assert.Empty(t, entries(t, dir))
	require.NoError(t, os.Remove(dir))
	require.NoError(t, os.WriteFile(dir, nil, 0o600))
	require.ErrorIs(t, records(t, dir, "").Probe(), syscall.ENOTDIR)
}

// TestUptime: the wall clock may be set back, and the record that came first is still the first.
func TestUptime(t *testing.T) {
	r := records(t, t.TempDir(), "boot-1")
	var last uint64
	for _, name := range []string{"a", "b", "c"} {
		require.NoError(t, r.Put(full(name)))
		rec, err := r.Get(full(name).Key())
		require.NoError(t, err)
		assert.Greater(t, rec.Uptime, last)
		last = rec.Uptime
		require.NoError(t, r.Put(rec))
		again, err := r.Get(rec.Key())
		require.NoError(t, err)
		assert.Equal(t, rec, again, "one that is put back stays as old as it was")
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	now := records(t, dir, "boot-2")
	require.NoError(t, records(t, filepath.Join(dir, "missing"), "").Sweep())
	require.NoError(t, records(t, dir, "boot-1").Put(full("dead")))
	require.NoError(t, now.Put(full("live")))
	old, young := filepath.Join(dir, ".new1"), filepath.Join(dir, ".new2")
	require.NoError(t, os.WriteFile(old, nil, 0o600))
	require.NoError(t, os.Chtimes(old, time.Time{}, time.Now().Add(-time.Hour)))
	require.NoError(t, os.WriteFile(young, nil, 0o600))
	_, problems, err := now.All("")
	require.NoError(t, err)
	assert.Empty(t, problems, "drafts are no records")
	require.NoError(t, now.Sweep())
	assert.Equal(t, []string{".new2", "cbr0:live:eth0"}, entries(t, dir))
}

func TestWatch(t *testing.T) {
	r := records(t, filepath.Join(t.TempDir(), "attachments"), "boot-1")
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan string, 1)
	done := make(chan error)
	go func() {
		done <- r.Watch(ctx, func() {
			all, _, err := r.All("")
			assert.NoError(t, err)
			select { // the latest is what counts
			case <-seen:
			default:
			}
			seen <- strings.Join(names(all), " ")
		})
	}()
	until := func(want string) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for {
			select {
			case got := <-seen:
				if got == want {
					return
				}
			case <-deadline:
				t.Fatalf("never saw %q", want)
			}
		}
	}
	until("")
	require.NoError(t, r.Put(full("a")))
	until("cbr0/a/eth0")
	require.NoError(t, r.Put(full("b")))
	until("cbr0/a/eth0 cbr0/b/eth0")
	require.NoError(t, r.Remove(full("a").Key()))
	until("cbr0/b/eth0")
	cancel()
	require.NoError(t, <-done)
}

const childVar = "PODWEFT_LOCAL_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVar); dir != "" {
		fmt.Fprintln(os.Stderr, churn(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// churn writes and removes records until it is killed.
func churn(dir string) error {
	r, err := local.Open(dir, "boot-1")
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		rec := full(fmt.Sprint("pod-", i%7))
		rec.Delegate = []byte(strings.Repeat("x", 1000*(i%9)))
		if i%5 == 0 {
			err = r.Remove(rec.Key())
		} else {
			err = r.Put(rec)
		}
		if err != nil {
			return err
		}
		fmt.Println(i)
	}
}

// Writers are killed at any moment while a reader reads: it sees whole records only.
func TestKilledWriters(t *testing.T) {
	dir := t.TempDir()
	r := records(t, dir, "boot-1")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			_, problems, err := r.All("")
			if !assert.NoError(t, err) || !assert.Empty(t, problems) {
				return
			}
		}
	})
	for range 30 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childVar+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		_, err = out.Read(make([]byte, 1))
		require.NoError(t, err)
		time.Sleep(time.Millisecond)
		require.NoError(t, cmd.Process.Kill())
		_, _ = out.Read(make([]byte, 64<<10))
		require.EqualError(t, cmd.Wait(), "signal: killed")
	}
	close(stop)
	wg.Wait()
}
