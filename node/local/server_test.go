package local_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/node/local"
)

// agent is a Handler of functions; those that are nil succeed.
type agent struct {
	attach func(context.Context, local.Record) error
	detach func(context.Context, []local.Key) error
	claim  func(context.Context, local.Claim) ([]local.Address, error)
	status func(context.Context) (local.Status, error)
}

func (a agent) Attach(ctx context.Context, rec local.Record) error {
	if a.attach == nil {
		return nil
	}
	return a.attach(ctx, rec)
}

func (a agent) Detach(ctx context.Context, keys []local.Key) error {
	if a.detach == nil {
		return nil
	}
	return a.detach(ctx, keys)
}

func (a agent) Claim(ctx context.Context, c local.Claim) ([]local.Address, error) {
	if a.claim == nil {
		return nil, nil
	}
	return a.claim(ctx, c)
}

func (a agent) Status(ctx context.Context) (local.Status, error) {
	if a.status == nil {
		return local.Status{Ready: true}, nil
	}
	return a.status(ctx)
}

// socket names one in a directory of the test. Its path must be short (unix(7): 108 bytes).
func socket(t testing.TB) string {
	dir, err := os.MkdirTemp("", "local")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "agent.sock")
}

// serve runs an agent until the test ends, or stop is called.
func serve(t testing.TB, cfg local.ServerConfig) (stop func()) {
	t.Helper()
	s, err := local.Listen(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

// TestAdmitsAll: plugins see it without a call, and see that the next agent does not.
func TestAdmitsAll(t *testing.T) {
	path := socket(t)
	c := local.NewClient(path)
	assert.False(t, c.AdmitsAll(), "nobody listens")
	serve(t, local.ServerConfig{Path: path, Handler: agent{}, AdmitsAll: true})
	assert.True(t, c.AdmitsAll())
	serve(t, local.ServerConfig{Path: path, Handler: agent{}})
	assert.False(t, c.AdmitsAll())
	dir := t.TempDir() // of a mode such as /tmp has
	require.NoError(t, os.Chmod(dir, 0o700|os.ModeSticky))
	assert.False(t, local.NewClient(dir).AdmitsAll())
}

func TestCalls(t *testing.T) {
	path := socket(t)
	want := full("a")
	address := local.Address{Prefix: netip.MustParsePrefix("10.244.1.2/32"), Gateway: netip.MustParseAddr("169.254.1.1")}
	asked := local.Claim{Key: want.Key(), Pod: want.Pod, Want: []netip.Addr{netip.MustParseAddr("10.244.1.2")}}
	state := local.Status{Problem: "no block of addresses is free", Attachments: 7, Started: time.Unix(1, 0).UTC()}
	gone := 0
	serve(t, local.ServerConfig{Path: path, Handler: agent{
		attach: func(_ context.Context, rec local.Record) error {
			assert.Equal(t, want, rec)
			return nil
		},
		detach: func(_ context.Context, keys []local.Key) error {
			gone += len(keys)
			return nil
		},
		claim: func(_ context.Context, c local.Claim) ([]local.Address, error) {
			assert.Equal(t, asked, c)
			return []local.Address{address}, nil
		},
		status: func(context.Context) (local.Status, error) { return state, nil },
	}})
	c := local.NewClient(path)
	require.NoError(t, c.Attach(t.Context(), want))
	require.NoError(t, c.Detach(t.Context()))
	var keys []local.Key
	for i := range 5000 {
		keys = append(keys, full(fmt.Sprintf("%0100d", i)).Key())
	}
	require.NoError(t, c.Detach(t.Context(), keys...))
	assert.Equal(t, 5000, gone)
	got, err := c.Claim(t.Context(), asked)
	require.NoError(t, err)
	assert.Equal(t, []local.Address{address}, got)
	status, err := c.Status(t.Context())
	require.NoError(t, err)
	assert.Equal(t, state, status)
}

func TestErrorsKeepTheirMeaning(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want error
	}{
		{"again", fmt.Errorf("policy of web: %w", local.ErrTryAgain), local.ErrTryAgain},
		{"called off", fmt.Errorf("policy of web: %w", context.Canceled), local.ErrTryAgain},
		{"exhausted", fmt.Errorf("pool a: %w", local.ErrExhausted), local.ErrExhausted},
		{"invalid", &podweft.FieldError{Field: "want", Problem: "is a gateway"}, podweft.ErrInvalid},
		{"anything else", errors.New("the sky has fallen"), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := socket(t)
			serve(t, local.ServerConfig{Path: path, Handler: agent{attach: func(context.Context, local.Record) error { return tt.err }}})
			err := local.NewClient(path).Attach(t.Context(), full("a"))
			require.EqualError(t, err, "attach cbr0/a/eth0: agent: "+tt.err.Error())
			for _, other := range []error{local.ErrTryAgain, local.ErrExhausted, podweft.ErrInvalid, local.ErrVersion, local.ErrForbidden, local.ErrNoAgent} {
				assert.Equal(t, errors.Is(tt.want, other), errors.Is(err, other), "%v", other)
			}
		})
	}
}

// What the plugin sends is checked on both sides; here on its own, without an agent.
func TestBadRequestIsNotSent(t *testing.T) {
	c := local.NewClient(socket(t))
	bad := full("a")
	bad.Interface = ""
	err := c.Attach(t.Context(), bad)
	require.ErrorIs(t, err, podweft.ErrInvalid)
	require.NotErrorIs(t, err, local.ErrNoAgent)
	bad = full("a")
	bad.Delegate = make([]byte, 2<<20)
	require.ErrorIs(t, c.Attach(t.Context(), bad), podweft.ErrInvalid)
}

func TestNoAgent(t *testing.T) {
	path := socket(t)
	c := local.NewClient(path)
	require.ErrorIs(t, c.Attach(t.Context(), full("a")), local.ErrNoAgent)

	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	l.Close()
	_, err = c.Status(t.Context())
	require.ErrorIs(t, err, local.ErrNoAgent, "a dead agent's socket")
	serve(t, local.ServerConfig{Path: path, Handler: agent{}})
	require.NoError(t, c.Attach(t.Context(), full("a")), "a new agent takes its place")
}

func waiting(started chan<- struct{}) func(context.Context, local.Record) error {
	return func(ctx context.Context, _ local.Record) error {
		started <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
}

func TestWaitIsBounded(t *testing.T) {
	path := socket(t)
	started := make(chan struct{}, 1)
	serve(t, local.ServerConfig{Path: path, Handler: agent{attach: waiting(started)}, MaxWait: 20 * time.Millisecond})
	err := local.NewClient(path).Attach(t.Context(), full("a"))
	require.ErrorIs(t, err, local.ErrTryAgain)
	assert.ErrorContains(t, err, "agent: not done after 20ms")
}

func TestWaitIsAsLongAsThePluginHas(t *testing.T) {
	path := socket(t)
	started := make(chan struct{}, 1)
	serve(t, local.ServerConfig{Path: path, Handler: agent{attach: waiting(started)}, MaxWait: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := local.NewClient(path).Attach(ctx, full("a"))
	require.ErrorIs(t, err, local.ErrTryAgain)
}

// A plugin that dies, or is called off, does not leave the agent at work.
func TestPluginDies(t *testing.T) {
	path := socket(t)
	started, ended := make(chan struct{}, 1), make(chan struct{})
	serve(t, local.ServerConfig{Path: path, MaxWait: time.Hour, Handler: agent{attach: func(ctx context.Context, _ local.Record) error {
		started <- struct{}{}
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	}}})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() { result <- local.NewClient(path).Attach(ctx, full("a")) }()
	<-started
	cancel()
	err := <-result
	require.ErrorIs(t, err, local.ErrTryAgain)
	require.ErrorIs(t, err, context.Canceled)
	<-ended
}

func TestAgentStops(t *testing.T) {
	path := socket(t)
	started := make(chan struct{}, 8)
	stop := serve(t, local.ServerConfig{Path: path, MaxWait: time.Hour, Handler: agent{attach: waiting(started)}})
	results := make(chan error, 8)
	for i := range cap(results) {
		go func() { results <- local.NewClient(path).Attach(t.Context(), full(fmt.Sprint(i))) }()
	}
	for range cap(results) {
		<-started
	}
	stop()
	for range cap(results) {
		err := <-results
		require.ErrorIs(t, err, local.ErrHungUp)
		require.ErrorIs(t, err, local.ErrTryAgain)
	}
	assert.NoFileExists(t, path)
	require.ErrorIs(t, local.NewClient(path).Detach(t.Context(), full("a").Key()), local.ErrNoAgent)
}

// An agent that is stopped still answers who has asked before, accepted or not, if that takes no wait.
func TestAgentAnswersBeforeItStops(t *testing.T) {
	path := socket(t)
	s, err := local.Listen(local.ServerConfig{Path: path, Handler: agent{}})
	require.NoError(t, err)
	var plugins []net.Conn
	for range 20 {
		conn, err := net.Dial("unix", path)
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.Write([]byte(`{"version":1,"verb":"status"}` + "\n" + `{"version":1,"verb":"status"}` + "\n"))
		require.NoError(t, err)
		plugins = append(plugins, conn)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, s.Run(ctx))
	require.ErrorIs(t, local.NewClient(path).Attach(t.Context(), full("late")), local.ErrNoAgent)
	for _, conn := range plugins {
		answers, err := io.ReadAll(conn)
		require.NoError(t, err)
		assert.Equal(t, strings.Repeat(`{"version":1,"status":{"ready":true,"attachments":0}}`+"\n", 2), string(answers))
	}
}

// A new agent takes the place of one that still runs; plugins notice nothing.
// TestOutOfDescriptors: an agent that has too many files open says so now and then, and hears plugins when it has fewer.
func TestOutOfDescriptors(t *testing.T) {
	path := socket(t)
	said := make(lines, 100)
	stop := serve(t, local.ServerConfig{Path: path, Handler: agent{}, Logger: slog.New(slog.NewTextHandler(said, nil))})
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	plugin := os.NewFile(uintptr(fd), "plugin")
	defer plugin.Close()
	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	began := time.Now()
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: limit.Max}))
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	first := said.next(10 * time.Second)
	time.Sleep(300 * time.Millisecond)
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	require.NoError(t, err)
	assert.Contains(t, first, "too many open files")

	_, err = plugin.WriteString(`{"version":1,"verb":"status"}` + "\n")
	require.NoError(t, err)
	answer, err := bufio.NewReader(plugin).ReadString('\n')
	require.NoError(t, err)
	assert.Contains(t, answer, `"ready":true`)
	stop()
	assert.LessOrEqual(t, len(said), int(time.Since(began)/time.Second), "once a second at most")
}

// lines are what a log has said.
type lines chan string

// Write implements io.Writer.
func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// next waits so long for a line.
func (l lines) next(wait time.Duration) string {
	select {
	case line := <-l:
		return line
	case <-time.After(wait):
		return ""
	}
}

func TestAgentIsReplaced(t *testing.T) {
	path := socket(t)
	var asked [2]atomic.Int32
	counting := func(i int) agent {
		return agent{attach: func(context.Context, local.Record) error { asked[i].Add(1); return nil }}
	}
	stop := serve(t, local.ServerConfig{Path: path, Handler: counting(0)})
	c := local.NewClient(path)
	require.NoError(t, c.Attach(t.Context(), full("a")))
	serve(t, local.ServerConfig{Path: path, Handler: counting(1)})
	require.NoError(t, c.Attach(t.Context(), full("a")))
	stop()
	require.NoError(t, c.Attach(t.Context(), full("a")), "the old agent has left the new one's socket alone")
	assert.EqualValues(t, 1, asked[0].Load())
	assert.EqualValues(t, 2, asked[1].Load())
}

// Plugins call while the agent starts and stops: each call succeeds, or fails with a reason to try again and succeeds then.
func TestHundredPluginsWhileTheAgentRestarts(t *testing.T) {
	path := socket(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var done atomic.Int32
	var plugins sync.WaitGroup
	for i := range 100 {
		plugins.Go(func() {
			defer done.Add(1)
			c := local.NewClient(path)
			for ctx.Err() == nil {
				err := c.Attach(ctx, full(fmt.Sprint("pod-", i)))
				if err == nil {
					return
				}
				if !errors.Is(err, local.ErrTryAgain) && !errors.Is(err, local.ErrNoAgent) {
					assert.NoError(t, err)
					return
				}
				time.Sleep(time.Millisecond)
			}
			assert.NoError(t, ctx.Err())
		})
	}
	restarts := 0
	for ; done.Load() < 100 && ctx.Err() == nil; restarts++ {
		before := done.Load()
		stop := serve(t, local.ServerConfig{Path: path, Handler: agent{attach: func(ctx context.Context, _ local.Record) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(3 * time.Millisecond):
				return nil
			}
		}}})
		time.Sleep(4 * time.Millisecond)
		for done.Load() == before && ctx.Err() == nil { // on a loaded machine that is too short a life for any of them
			time.Sleep(time.Millisecond)
		}
		stop()
	}
	plugins.Wait()
	t.Logf("%d agents", restarts)
}

// raw says a line to the agent at path and returns what it answers.
func raw(t *testing.T, path, line string) string {
	t.Helper()
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer conn.Close()
	go conn.Write([]byte(line + "\n"))
	answer, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	return answer
}

func TestRequestsOfOthers(t *testing.T) {
	path := socket(t)
	serve(t, local.ServerConfig{Path: path, Handler: agent{}})
	tests := []struct{ name, line, want string }{
		{"no JSON", `hello`, `{"version":1,"error":{"code":"invalid","text":"request: invalid character 'h' looking for beginning of value"}}`},
		{"another version", `{"version":2,"verb":"attach","record":[]}`, `{"version":1,"error":{"code":"version","text":"another version of the protocol: version 2 was spoken, the agent knows 1"}}`},
		{"no version", `{"verb":"status"}`, `"code":"version"`},
		{"another verb", `{"version":1,"verb":"dance"}`, `"code":"version","text":"another version of the protocol: the agent does not know \"dance\""`},
		{"no record", `{"version":1,"verb":"attach"}`, `"code":"invalid","text":"record: is missing"`},
		{"bad record", `{"version":1,"verb":"attach","record":{"network":"a","container":"b"}}`, `"code":"invalid","text":"interface: \"\" is not the name of an interface"`},
		{"bad key", `{"version":1,"verb":"detach","keys":[{"network":"a","container":"..","interface":"eth0"}]}`, `keys[0].container: \"..\" is not the ID`},
		{"no claim", `{"version":1,"verb":"claim"}`, `claim: is missing`},
		{"bad wish", `{"version":1,"verb":"claim","claim":{"key":{"network":"a","container":"b","interface":"c"},"want":["fe80::1%eth0"]}}`, `claim.want[0]: fe80::1%eth0 is not a pod's address`},
		{"too long", `{"version":1,"verb":"` + strings.Repeat("a", 2<<20) + `"}`, `request: is too long: send at most 1048576 bytes`},
		{"fields of the future", `{"version":1,"verb":"status","colour":"green"}`, `{"version":1,"status":{"ready":true,"attachments":0}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Contains(t, raw(t, path, tt.line), tt.want)
		})
	}
}

func TestSeveralRequestsOnOneConnection(t *testing.T) {
	path := socket(t)
	serve(t, local.ServerConfig{Path: path, Handler: agent{}})
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer conn.Close()
	answers := bufio.NewReader(conn)
	for range 3 {
		_, err = conn.Write([]byte(`{"version":1,"verb":"status"}` + "\n"))
		require.NoError(t, err)
		answer, err := answers.ReadString('\n')
		require.NoError(t, err)
		assert.Contains(t, answer, `"ready":true`)
	}
}

// An agent that is not one: it answers what no agent would.
func TestAnswersOfOthers(t *testing.T) {
	tests := []struct {
		name, answer string
		want         error
	}{
		{"no JSON", "hello\n", local.ErrVersion},
		{"another version", `{"version":9}` + "\n", local.ErrVersion},
		{"another version's error", `{"version":9,"error":{"code":"version","text":"?"}}` + "\n", local.ErrVersion},
		{"no status", `{"version":1}` + "\n", local.ErrVersion},
		{"no address", `{"version":1,"status":{},"addresses":[{"prefix":""}]}` + "\n", local.ErrVersion},
		{"silence", "", local.ErrHungUp},
		{"half a line", `{"version":1,"status":{}}`, local.ErrHungUp},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := socket(t)
			l, err := net.Listen("unix", path)
			require.NoError(t, err)
			defer l.Close()
			go func() {
				conn, err := l.Accept()
				if err == nil {
					_, _ = bufio.NewReader(conn).ReadString('\n')
					_, _ = conn.Write([]byte(tt.answer))
					conn.Close()
				}
			}()
			_, err = local.NewClient(path).Status(t.Context())
			require.ErrorIs(t, err, tt.want)
		})
	}
}

// as runs fn on a thread of another user. The thread ends with it.
func as(t *testing.T, uid uintptr, fn func()) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	done := make(chan syscall.Errno)
	go func() {
		runtime.LockOSThread() // for ever
		_, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uid, uid, uid)
		if errno == 0 {
			fn()
		}
		done <- errno
	}()
	if errno := <-done; errno != 0 {
		t.Skipf("cannot be user %d here: %v", uid, errno)
	}
}

const nobody = 65534

func TestOtherUsersAreRefused(t *testing.T) {
	path := socket(t)
	serve(t, local.ServerConfig{Path: path, Handler: agent{}})
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	var closed, opened error
	as(t, nobody, func() { closed = local.NewClient(path).Attach(t.Context(), full("a")) })
	require.ErrorIs(t, closed, local.ErrForbidden)
	require.ErrorIs(t, closed, os.ErrPermission, "the file's mode")

	require.NoError(t, os.Chmod(filepath.Dir(path), 0o755))
	require.NoError(t, os.Chmod(path, 0o666))
	as(t, nobody, func() { opened = local.NewClient(path).Attach(t.Context(), full("a")) })
	require.ErrorIs(t, opened, local.ErrForbidden)
	assert.ErrorContains(t, opened, "user 65534")
}

// A plugin does not talk to whoever has put a socket there.
func TestAgentOfAnotherUserIsRefused(t *testing.T) {
	path := socket(t)
	require.NoError(t, os.Chmod(filepath.Dir(path), 0o777))
	var s *local.Server
	var err error
	as(t, nobody, func() { s, err = local.Listen(local.ServerConfig{Path: path, Handler: agent{}}) })
	require.NoError(t, err)
	defer s.Close()
	_, err = local.NewClient(path).Status(t.Context())
	require.ErrorIs(t, err, local.ErrForbidden)
}

func TestServerConfigIsChecked(t *testing.T) {
	_, err := local.Listen(local.ServerConfig{MaxWait: -1})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	for _, field := range []string{"Path: is missing", "Handler: is missing", "MaxWait: -1ns is negative"} {
		assert.ErrorContains(t, err, field)
	}
	_, err = local.Listen(local.ServerConfig{Path: "/" + strings.Repeat("long/", 50), Handler: agent{}})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	assert.ErrorContains(t, err, "is too long for a socket's name: use at most 99 bytes")
	_, err = local.Open("", "")
	require.ErrorIs(t, err, podweft.ErrInvalid)
	require.EqualError(t, err, "dir: is missing: name the directory of the records")
}
