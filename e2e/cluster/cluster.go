// Package cluster is a Kubernetes control plane for tests: etcd as Debian has it, and the kube-apiserver of Kubernetes itself, as
// processes. Controllers and a scheduler it has after StartControllers; before, a test plays them, and the kubelets, and says so. Whole
// nodes are package machine's.
//
//	c := cluster.Start(t, nil)
//	store, err := kube.New(kube.Config{Client: c.Admin(), ...})
//
// Kubernetes is not fetched and built here: that is ../program's work, whose answer is in the environment.
package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"github.com/podweft/podweft/testnet"
)

// ProgramVar names the environment's variable for the program, as `../program kubernetes` prints it.
const ProgramVar = "PODWEFT_E2E_KUBERNETES"

// Program is Kubernetes, all of it; its first argument is the component. It is empty where there is none.
func Program() string { return os.Getenv(ProgramVar) }

// patience is how long a program may take to start, on a machine that has much else to do.
const patience = 2 * time.Minute

// Cluster is a control plane. It ends with the test that started it.
type Cluster struct {
	t      testing.TB
	node   *testnet.Node // nil: where the test itself is
	dir    string
	addr   netip.AddrPort
	ranges ranges
	server *process
}

// Start runs a control plane in the node, at its first address, or, without a node, at the loopback address of the test's own
// network. Where the programs are not there the test is skipped.
func Start(t testing.TB, on *testnet.Node) *Cluster {
	t.Helper()
	return start(t, on, ranges{podNetwork4, serviceNetwork4})
}

// StartDual is Start of a cluster whose pods have addresses of both families, and whose Services can.
func StartDual(t testing.TB, on *testnet.Node) *Cluster {
	t.Helper()
	return start(t, on, ranges{podNetwork4 + "," + podNetwork6, serviceNetwork4 + "," + serviceNetwork6})
}

func start(t testing.TB, on *testnet.Node, of ranges) *Cluster {
	t.Helper()
	testnet.Require(t)
	if Program() == "" {
		t.Skipf("no Kubernetes: run make e2e, or set %s to what `e2e/program kubernetes` prints", ProgramVar)
	}
	c := &Cluster{t: t, node: on, dir: t.TempDir(), addr: netip.MustParseAddrPort("127.0.0.1:6443"), ranges: of}
	advertise := []string{"--advertise-address", "192.0.2.1", "--endpoint-reconciler-type", "none"} // it wants one that is not loopback
	if on != nil {
		c.addr = netip.AddrPortFrom(on.Addrs()[0], 6443)
		advertise = nil // the Service leads to where it is
	}
	c.startEtcd()
	c.writeSecrets()
	c.server = c.process(Program(), append([]string{
		"kube-apiserver", "--etcd-servers", etcdURL, "--bind-address", c.addr.Addr().String(), "--secure-port", fmt.Sprint(c.addr.Port()),
		"--cert-dir", c.dir, "--token-auth-file", c.path("tokens.csv"), "--authorization-mode", "Node,RBAC",
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", c.path("accounts.pem"), "--service-account-signing-key-file", c.path("accounts.pem"),
		"--service-cluster-ip-range", c.ranges.services, "--allow-privileged", "--profiling=false", // agents may be privileged, as kubeadm has it
	}, advertise...)...)
	c.StartServer()
	return c
}

const (
	etcdURL = "http://127.0.0.1:2379"
	peerURL = "http://127.0.0.1:2380"
)

func (c *Cluster) startEtcd() {
	c.t.Helper()
	etcd := c.process("etcd", "--data-dir", c.path("etcd"), "--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL,
		"--listen-peer-urls", peerURL, "--initial-advertise-peer-urls", peerURL, "--initial-cluster", "default="+peerURL, "--unsafe-no-fsync")
	etcd.start()
	c.await("etcd", etcd, func(ctx context.Context) error {
		return c.get(ctx, &http.Client{Transport: &http.Transport{DialContext: c.dial, DisableKeepAlives: true}}, etcdURL+"/health")
	})
}

// writeSecrets writes who the users are, and the key that signs the tokens of service accounts.
func (c *Cluster) writeSecrets() {
	c.t.Helper()
	c.writeUsers()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(c.t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(c.t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	require.NoError(c.t, os.WriteFile(c.path("accounts.pem"), text, 0o600))
}

// StartServer starts the API server, which is down, and waits until it serves.
func (c *Cluster) StartServer() {
	c.t.Helper()
	c.server.start()
	c.await("kube-apiserver", c.server, func(ctx context.Context) error {
		client, err := rest.HTTPClientFor(c.Admin())
		if err != nil {
			return err // its certificate is not there yet
		}
		defer client.CloseIdleConnections()
		return c.get(ctx, client, c.URL()+"/readyz")
	})
}

// StopServer kills the API server: nobody is told that it goes.
func (c *Cluster) StopServer() { c.server.kill() }

// URL is where the API server is.
func (c *Cluster) URL() string { return "https://" + c.addr.String() }

// PodNetworks are where pods have their addresses, as the flags of Kubernetes have it: one network, or one of each family.
func (c *Cluster) PodNetworks() string { return c.ranges.pods }

// CAFile holds the certificate that signed the API server's.
func (c *Cluster) CAFile() string { return c.path("apiserver.crt") }

// Admin is how the test itself reaches the API server, as somebody who may do everything, as fast as he can.
func (c *Cluster) Admin() *rest.Config { return c.As(Token(admin)) }

// As is Admin for whomever the token is of.
func (c *Cluster) As(token string) *rest.Config {
	return &rest.Config{
		Host: c.URL(), BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAFile: c.CAFile()}, QPS: -1, Dial: c.dial,
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }, // nothing outside is asked
	}
}

// Kubeconfig writes a kubeconfig for whomever the token is of, and returns its path.
func (c *Cluster) Kubeconfig(token string) string {
	c.t.Helper()
	path := filepath.Join(c.t.TempDir(), "kubeconfig")
	require.NoError(c.t, os.WriteFile(path, []byte(c.KubeconfigText(token)), 0o600))
	return path
}

// KubeconfigText is what is in a kubeconfig for whomever the token is of.
func (c *Cluster) KubeconfigText(token string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: u, user: {token: %q}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, c.URL(), c.CAFile(), token)
}

func (c *Cluster) path(name string) string { return filepath.Join(c.dir, name) }

// dial connects from inside the node.
func (c *Cluster) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	dialer := net.Dialer{Timeout: 3 * time.Second}
	if c.node == nil {
		return dialer.DialContext(ctx, network, addr)
	}
	err = c.node.Do(func() error {
		conn, err = dialer.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

func (c *Cluster) get(ctx context.Context, client *http.Client, at string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", at, answer.Status)
	}
	return nil
}

// await waits until a program works.
func (c *Cluster) await(name string, p *process, works func(context.Context) error) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
		err := works(ctx)
		cancel()
		if err == nil {
			return
		}
		if p.ended() || time.Now().After(deadline) {
			c.t.Fatalf("%s does not work: %v\n%s", name, err, p.log)
		}
	}
}

// process is a program that can be started again.
type process struct {
	t       testing.TB
	command func() *exec.Cmd
	cmd     *exec.Cmd
	done    chan struct{} // closed when it has ended
	log     *log
}

// process is a program with its arguments, in the cluster's node. Nothing of the environment reaches it.
func (c *Cluster) process(name string, args ...string) *process {
	return &process{t: c.t, log: &log{}, command: func() *exec.Cmd {
		cmd := exec.Command(name, args...)
		if c.node != nil {
			cmd = c.node.Command(context.Background(), name, args...)
		}
		cmd.Env = []string{}
		return cmd
	}}
}

func (p *process) start() {
	p.t.Helper()
	p.cmd, p.done = p.command(), make(chan struct{})
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	require.NoError(p.t, p.cmd.Start())
	p.t.Cleanup(p.kill)
	go func(cmd *exec.Cmd, done chan struct{}) {
		defer close(done)
		_ = cmd.Wait()
	}(p.cmd, p.done)
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill ends the process, if it has not ended yet.
func (p *process) kill() {
	if !p.ended() {
		_ = p.cmd.Process.Signal(syscall.SIGKILL)
		<-p.done
	}
}

// log keeps the end of what a program says.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

const logSize = 64 << 10

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text.Len() > logSize {
		l.text.Next(l.text.Len() - logSize/2)
	}
	return l.text.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
