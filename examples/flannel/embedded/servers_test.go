package embedded_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/podweft/podweft/examples/flannel/embedded"
	"github.com/podweft/podweft/examples/internal/loopback"
)

// memberEnv, in a child process, is the configuration of the embedded server that the child is to be. In a process of its own
// it can be killed, and its goroutines are not counted as the Store's.
const memberEnv = "PODWEFT_TEST_MEMBER"

func TestMain(m *testing.M) {
	text := os.Getenv(memberEnv)
	if text == "" {
		os.Exit(m.Run())
	}
	var cfg embedded.Config
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		panic(err)
	}
	s, err := embedded.Start(context.Background(), cfg)
	if err != nil {
		panic(err)
	}
	panic(<-s.Failed())
}

func startEmbedded(t testing.TB) string {
	t.Helper()
	return startMember(t, embedded.Config{Dir: t.TempDir(), Client: loopback.FreeURL(t)}).url
}

// startMember starts an embedded server in a process of its own. It does not wait for it.
func startMember(t testing.TB, cfg embedded.Config) *process {
	t.Helper()
	text, err := json.Marshal(cfg)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), memberEnv+"="+string(text))
	return startProcess(t, cmd, cfg.Client)
}

// startDebian starts the etcd of the system: 3.4 on Debian 12.
func startDebian(t testing.TB) string {
	t.Helper()
	binary, err := exec.LookPath("etcd")
	if err != nil {
		if os.Getenv("PODWEFT_REQUIRE_KERNEL") != "" {
			require.NoError(t, err, "apt install etcd-server")
		}
		t.Skip("there is no etcd on this machine: apt install etcd-server")
	}
	return startBinary(t, binary, t.TempDir(), loopback.FreeURL(t)).url
}

// process is an etcd in a process of its own.
type process struct {
	url string
	cmd *exec.Cmd
}

func startBinary(t testing.TB, binary, dir, url string) *process {
	t.Helper()
	peer := loopback.FreeURL(t)
	cmd := exec.Command(binary, "--data-dir", dir, "--listen-client-urls", url, "--advertise-client-urls", url,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	p := startProcess(t, cmd, url)
	operator(t, url)
	return p
}

func startProcess(t testing.TB, cmd *exec.Cmd, url string) *process {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	p := &process{url, cmd}
	t.Cleanup(p.kill)
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// servers are the kinds of etcd that the Store is for.
var servers = []struct {
	name  string
	start func(testing.TB) string
}{
	{"embedded", startEmbedded},
	{"Debian's", startDebian},
}

// operator is a client as a person with etcdctl has it. It waits until etcd serves.
func operator(t testing.TB, url string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, Logger: zap.NewNop(), DialTimeout: 30 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		_, err := c.Get(ctx, "/")
		if err == nil {
			return c
		}
		require.NoError(t, ctx.Err(), "etcd does not serve: %v", err)
		time.Sleep(20 * time.Millisecond)
	}
}

func put(t testing.TB, c *clientv3.Client, key, value string, opts ...clientv3.OpOption) {
	t.Helper()
	_, err := c.Put(t.Context(), key, value, opts...)
	require.NoError(t, err)
}

// cable is a way to a server that can be cut.
type cable struct {
	url    string
	server string

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
}

func newCable(t testing.TB, server string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	u, err := url.Parse(server)
	require.NoError(t, err)
	c := &cable{url: "http://" + l.Addr().String(), server: u.Host, conns: map[net.Conn]bool{}}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go c.carry(conn)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		c.set(true)
	})
	return c
}

func (c *cable) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", c.server)
	if err != nil || !c.add(client, server) {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	}()
	_, _ = io.Copy(client, server)
}

func (c *cable) add(conns ...net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range conns {
		if c.cut {
			_ = conn.Close()
			continue
		}
		c.conns[conn] = true
	}
	return !c.cut
}

func (c *cable) set(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = cut
	for conn := range c.conns {
		if cut {
			_ = conn.Close()
			delete(c.conns, conn)
		}
	}
}

// prefix is a prefix of the test's own.
func prefix(t testing.TB) string { return "/" + strings.ReplaceAll(t.Name(), " ", "_") + "/network" }
