package flannel

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/examples/flannel/embedded"
	"github.com/podweft/podweft/examples/internal/loopback"
	"github.com/podweft/podweft/node"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/etcd"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(program{m}) }

// roleVar is set in a process that is to be the daemon, or etcd with the configuration in etcdVar.
const (
	roleVar  = "PODWEFT_TEST_ROLE"
	etcdRole = "etcd"
	etcdVar  = "PODWEFT_TEST_ETCD"
)

type program struct{ tests *testing.M }

func (p program) Run() int {
	switch os.Getenv(roleVar) {
	case "":
		return p.tests.Run()
	case etcdRole:
		return serveEtcd(os.Getenv(etcdVar))
	}
	return Main(os.Args[1:], os.Stdout, os.Stderr)
}

// serveEtcd is etcd until it is killed.
func serveEtcd(config string) int {
	var cfg embedded.Config
	err := json.Unmarshal([]byte(config), &cfg)
	if err == nil {
		var s *embedded.Server
		if s, err = embedded.Start(context.Background(), cfg); err == nil {
			err = <-s.Failed()
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

const (
	vxlanConf = `{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`
	patience  = 30 * time.Second
)

// startEtcd serves a network's configuration at the URL that it returns, beside a Store for the test itself.
func startEtcd(t testing.TB, conf string) (url string, store *etcd.Store) {
	t.Helper()
	url = loopback.FreeURL(t)
	s, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Client: url})
	require.NoError(t, err)
	t.Cleanup(s.Stop)
	configure(t, url, conf)
	store, err = etcd.New(etcd.Config{Endpoints: []string{url}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	return url, store
}

// serving waits until the etcd at the URL serves.
func serving(t testing.TB, url string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		r, err := http.Get(url + "/health")
		if err == nil {
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return
			}
		}
		require.True(t, time.Now().Before(deadline), "etcd does not serve at %s: %v", url, err)
	}
}

// configure puts net-conf.json as an operator does, here over etcd's HTTP gateway.
func configure(t testing.TB, url, conf string) {
	t.Helper()
	body, err := json.Marshal(map[string][]byte{"key": []byte(etcd.DefaultPrefix + "/config"), "value": []byte(conf)})
	require.NoError(t, err)
	r, err := http.Post(url+"/v3/kv/put", "application/json", bytes.NewReader(body))
	require.NoError(t, err)
	defer r.Body.Close()
	require.Equal(t, http.StatusOK, r.StatusCode)
}

// agent is a daemon in a process of its own, for one node of a fabric.
type agent struct {
	t       testing.TB
	program string // ours, in the role of the daemon, unless it is another
	node    *testnet.Node
	args    []string
	dir     string
	url     string // of /readyz
	cmd     *exec.Cmd
	log     *lockedBuffer
}

func newAgent(t testing.TB, n *testnet.Node, name, endpoints string, more ...string) *agent {
	t.Helper()
	a := &agent{t: t, program: os.Args[0], node: n, dir: t.TempDir(), url: loopback.FreeURL(t)}
	_, port, err := net.SplitHostPort(strings.TrimPrefix(a.url, "http://"))
	require.NoError(t, err)
	a.args = append([]string{
		"--node-name", name, "--netns", n.NetNS(), "--etcd-endpoints", endpoints, "--ip-masq",
		"--subnet-file", a.path("subnet.env"), "--state-file", a.path("lease.json"), "--cni-state-dir", a.path("cni"),
		"--healthz-ip", "127.0.0.1", "--healthz-port", port,
	}, more...)
	return a
}

func (a *agent) path(name string) string { return filepath.Join(a.dir, name) }

// command is the program with the agent's flags.
func (a *agent) command(args ...string) *exec.Cmd {
	cmd := exec.Command(a.program, append(a.args, args...)...)
	cmd.Env = append(os.Environ(), roleVar+"=daemon")
	return cmd // no Pdeathsig: threads that were in a namespace end, and it is a thread's death that counts
}

func (a *agent) start() {
	a.t.Helper()
	a.cmd, a.log = a.command(), &lockedBuffer{}
	a.cmd.Stderr = a.log
	require.NoError(a.t, a.cmd.Start())
	a.t.Cleanup(func() { a.kill(syscall.SIGKILL) })
}

// kill ends the process and returns how it ended.
func (a *agent) kill(s syscall.Signal) error {
	_ = a.cmd.Process.Signal(s)
	return a.cmd.Wait()
}

// ready waits until the agent is.
func (a *agent) ready() {
	a.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if status, _ := a.ask("/readyz"); status == http.StatusOK {
			if _, err := os.Stat(a.path("subnet.env")); err == nil {
				return
			}
		}
		require.True(a.t, time.Now().Before(deadline), "the daemon is not ready: %s", a.log)
	}
}

func (a *agent) ask(path string) (int, string) {
	r, err := http.Get(a.url + path)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	body, _ := io.ReadAll(r.Body)
	return r.StatusCode, string(body)
}

// pod gives the node's first pod address to the node itself, on a bridge that no agent touches, and returns it.
func (a *agent) pod() netip.Addr {
	a.t.Helper()
	vars, err := readSubnetFile(a.path("subnet.env"))
	require.NoError(a.t, err)
	own, err := netip.ParsePrefix(vars["FLANNEL_SUBNET"])
	require.NoError(a.t, err)
	h := a.netlink()
	link, err := h.LinkByName("cni0")
	if err != nil {
		require.NoError(a.t, h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}))
		link, err = h.LinkByName("cni0")
		require.NoError(a.t, err)
		require.NoError(a.t, h.LinkSetUp(link))
	}
	addr, err := netlink.ParseAddr(own.String())
	require.NoError(a.t, err)
	require.NoError(a.t, h.AddrReplace(link, addr))
	return own.Addr()
}

func (a *agent) netlink() *netlink.Handle {
	a.t.Helper()
	var h *netlink.Handle
	require.NoError(a.t, a.node.Do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	}))
	a.t.Cleanup(h.Close)
	return h
}

// pings are sent every 5 ms until stop, which returns how many there were and how many had no answer.
func pings(t testing.TB, from *testnet.Node, source, to netip.Addr) (stop func() (sent, lost int)) {
	t.Helper()
	p, err := from.Pinger()
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var wg sync.WaitGroup
	sent, lost := 0, 0
	wg.Go(func() {
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			wg.Go(func() {
				echo, end := context.WithTimeout(context.WithoutCancel(ctx), patience) // a loaded machine is late: lost is what never comes
				defer end()
				_, err := p.Echo(echo, to, testnet.Echo{From: source})
				mu.Lock()
				defer mu.Unlock()
				sent++
				if err != nil {
					lost++
				}
			})
		}
	})
	return func() (int, int) {
		cancel()
		wg.Wait()
		_ = p.Close()
		return sent, lost
	}
}

// needTUN skips the test where TUN links cannot be had.
func needTUN(t testing.TB) {
	t.Helper()
	testnet.Require(t)
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	switch {
	case err == nil:
		require.NoError(t, f.Close())
	case os.Getenv("PODWEFT_REQUIRE_KERNEL") == "1":
		require.NoError(t, err)
	default:
		t.Skip(err)
	}
}

// lockedBuffer is what a process wrote so far.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestDaemon: two nodes' daemons find each other in etcd, and are stopped, killed, started and cleaned up while pods talk.
func TestDaemon(t *testing.T) {
	haveIPIP := haveIPIP(t)
	for _, tc := range []struct {
		name, conf string
		moves      bool // packets itself: none while it is down
	}{
		{name: "vxlan", conf: vxlanConf},
		{name: "host-gw", conf: `{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}`},
		{name: "ipip", conf: fmt.Sprintf(`{"Network":"10.244.0.0/16","Backend":{"Type":"ipip","DirectRouting":%t}}`, !haveIPIP)},
		{name: "udp", conf: `{"Network":"10.244.0.0/16","SubnetLen":24,"Backend":{"Type":"udp","Port":7890}}`, moves: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.moves {
				needTUN(t)
			}
			url, store := startEtcd(t, tc.conf)
			f := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 2, Outside: true})
			a, b := newAgent(t, f.Nodes[0], "a", url), newAgent(t, f.Nodes[1], "b", url, "--log-format=json")
			kernel, leases := a.kernel(), present(t, store)
			plan, err := a.command("plan").CombinedOutput()
			require.NoError(t, err, "%s", plan)
			assert.Contains(t, string(plan), "lease 10.244.")
			assert.Contains(t, string(plan), "~ sysctl net/ipv4/ip_forward=1\n")
			assert.Contains(t, string(plan), "+ file "+a.path("subnet.env")+"\n")
			assert.Equal(t, kernel, a.kernel(), "a plan has changed the node")
			assert.Equal(t, leases.Revision, present(t, store).Revision, "a plan has changed the store")
			assert.NoFileExists(t, a.path("subnet.env"))
			assert.NoFileExists(t, a.path("lease.json"))
			a.start()
			b.start()
			a.ready()
			b.ready()
			from, to := a.pod(), b.pod()
			reaches(t, f.Nodes[0], from, to)

			if tc.moves {
				restart(t, a, b, from, to)
				return
			}
			stop := pings(t, f.Nodes[0], from, to)
			time.Sleep(100 * time.Millisecond)
			require.NoError(t, b.kill(syscall.SIGTERM), "a graceful stop: %s", b.log)
			assert.Contains(t, messages(t, b.log.String()), "ready")
			time.Sleep(100 * time.Millisecond)
			before := a.pod()
			_ = a.kill(syscall.SIGKILL)
			b.start()
			a.start()
			a.ready()
			b.ready()
			sent, lost := stop()
			assert.Zero(t, lost, "of %d pings", sent)
			assert.Equal(t, before, a.pod(), "the node has another subnet after a restart")

			_, metrics := a.ask("/metrics")
			assert.Contains(t, metrics, "podweft_ready 1")
			assert.Contains(t, metrics, "podweft_peers 1")
			assert.Regexp(t, `podweft_passes_total [1-9]`, metrics)
			assert.Contains(t, metrics, "podweft_leases_left_out 0")
			status, text := a.ask("/healthz")
			assert.Equal(t, http.StatusOK, status)
			assert.Equal(t, "flanneld is running\n", text)
			plan, err = a.command("plan").CombinedOutput()
			require.NoError(t, err, "%s", plan)
			for line := range strings.Lines(string(plan)) {
				tunnel := strings.Contains(line, "flannel.ipip") // the one that the kernel does not make
				assert.True(t, strings.HasPrefix(line, "lease ") || tc.name == "ipip" && tunnel && !haveIPIP, "nothing is to be changed on a running node: %s", plan)
			}

			require.NoError(t, a.kill(syscall.SIGTERM))
			out, err := a.command("cleanup").CombinedOutput()
			require.NoError(t, err, "%s", out)
			links, err := a.netlink().LinkList()
			require.NoError(t, err)
			for _, l := range links {
				assert.NotContains(t, l.Attrs().Name, "flannel", "a link is left")
			}
			routes, err := a.netlink().RouteList(nil, netlink.FAMILY_V4)
			require.NoError(t, err)
			for _, r := range routes {
				assert.False(t, r.Dst != nil && r.Dst.String() == netip.PrefixFrom(to, 24).Masked().String(), "%s is left", r)
			}
			assert.NoFileExists(t, a.path("subnet.env"))
		})
	}
}

// haveIPIP reports whether the kernel makes IPIP tunnels. Where it does not, its backend serves nodes of one network.
func haveIPIP(t testing.TB) bool {
	t.Helper()
	h := (&agent{t: t, node: testnet.NewNode(t, "ipip")}).netlink()
	err := h.LinkAdd(&netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, Local: net.IPv4(192, 0, 2, 1)})
	t.Log("an IPIP tunnel:", cmp.Or(err, errors.New("made")))
	return err == nil
}

// kernel is what the agent's node has in its kernel, of all that an agent changes there.
func (a *agent) kernel() []string {
	a.t.Helper()
	var lines []string
	h := a.netlink()
	links, err := h.LinkList()
	require.NoError(a.t, err)
	for _, l := range links {
		lines = append(lines, fmt.Sprint("link ", l.Attrs().Name, l.Type(), l.Attrs().MTU, l.Attrs().Alias))
	}
	addrs, err := h.AddrList(nil, netlink.FAMILY_V4)
	require.NoError(a.t, err)
	for _, addr := range addrs {
		lines = append(lines, fmt.Sprint("address ", addr.IPNet, addr.LinkIndex))
	}
	routes, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, 0)
	require.NoError(a.t, err)
	for _, r := range routes {
		lines = append(lines, fmt.Sprint("route ", r))
	}
	require.NoError(a.t, a.node.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
		lines = append(lines, "forward "+string(text))
		return err
	}))
	if _, err := exec.LookPath("nft"); err == nil {
		rules, err := a.node.Command(a.t.Context(), "nft", "list", "ruleset").CombinedOutput()
		require.NoError(a.t, err, "%s", rules)
		lines = append(lines, string(rules))
	}
	return lines
}

// present is what the store has.
func present(t testing.TB, s subnet.Store) *subnet.Snapshot {
	t.Helper()
	for snap, err := range s.Watch(t.Context()) {
		require.NoError(t, err)
		return snap
	}
	return nil
}

// messages are those of a log in JSON.
func messages(t testing.TB, log string) (all []string) {
	t.Helper()
	for line := range strings.Lines(log) {
		var record struct {
			Time       time.Time
			Level, Msg string
		}
		require.NoError(t, json.Unmarshal([]byte(line), &record), line)
		require.NotZero(t, record.Time, line)
		require.NotEmpty(t, record.Level, line)
		all = append(all, record.Msg)
	}
	return all
}

// restart kills both daemons and starts them again: packets flow as soon as they are there.
func restart(t *testing.T, a, b *agent, from, to netip.Addr) {
	t.Helper()
	_ = b.kill(syscall.SIGKILL)
	require.NoError(t, a.kill(syscall.SIGTERM), "a graceful stop: %s", a.log)
	a.start()
	b.start()
	reaches(t, a.node, from, to)
	a.ready()
	require.NoError(t, a.kill(syscall.SIGTERM))
	out, err := a.command("cleanup").CombinedOutput()
	require.NoError(t, err, "%s", out)
	links, err := a.netlink().LinkList()
	require.NoError(t, err)
	for _, l := range links {
		assert.NotEqual(t, "tuntap", l.Type())
	}
}

// reaches waits until a packet comes back.
func reaches(t testing.TB, n *testnet.Node, from, to netip.Addr) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := n.Echo(ctx, to, testnet.Echo{From: from})
		cancel()
		if err == nil {
			return
		}
		require.True(t, time.Now().Before(deadline), "no way from %s to %s: %v", from, to, err)
	}
}

// TestTakesOverFromFlannel: a lease that flannel wrote for the node's address is the node's.
func TestTakesOverFromFlannel(t *testing.T) {
	url, store := startEtcd(t, vxlanConf)
	f := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1, Outside: true})
	key := etcd.DefaultPrefix + "/subnets/10.244.77.0-24"
	body, err := json.Marshal(map[string][]byte{"key": []byte(key), "value": fmt.Appendf(nil, `{"PublicIP":"%s","PublicIPv6":null,"BackendType":"vxlan"}`, f.Nodes[0].V4)})
	require.NoError(t, err)
	r, err := http.Post(url+"/v3/kv/put", "application/json", bytes.NewReader(body))
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	a := newAgent(t, f.Nodes[0], "a", url, "--iface=none0", "--iface=none1", "--iface-regex=^none", "--iface-regex=^(eth0|lo)$")
	a.start()
	a.ready()
	env, err := os.ReadFile(a.path("subnet.env"))
	require.NoError(t, err)
	assert.Equal(t, "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.77.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n", string(env))
	for snap, err := range store.Watch(t.Context()) {
		require.NoError(t, err)
		require.Len(t, snap.Leases, 1)
		assert.Equal(t, "a", snap.Leases[0].Node)
		assert.Equal(t, subnet.Prefixes{V4: netip.MustParsePrefix("10.244.77.0/24")}, snap.Leases[0].Prefixes)
		break
	}
	out, err := a.command("docker-opts", "ignored").CombinedOutput()
	require.Error(t, err, "%s", out)
	a.args = append(a.args, "--docker-file", a.path("docker.env"))
	out, err = a.command("docker-opts").CombinedOutput()
	require.NoError(t, err, "%s", out)
	docker, err := os.ReadFile(a.path("docker.env"))
	require.NoError(t, err)
	assert.Equal(t, `DOCKER_OPT_BIP="--bip=10.244.77.1/24"
DOCKER_OPT_IPMASQ="--ip-masq=false"
DOCKER_OPT_MTU="--mtu=1450"
DOCKER_OPTS=" --bip=10.244.77.1/24 --ip-masq=false --mtu=1450"
`, string(docker))
}

// TestRefusals: what cannot work ends with one sentence.
func TestRefusals(t *testing.T) {
	url, _ := startEtcd(t, `{"Network":"10.244.0.0/16","Backend":{"Type":"pigeons"}}`)
	bad, _ := startEtcd(t, `{"Network":"10.244.0.0/16","SubnetLen":31}`)
	good, _ := startEtcd(t, vxlanConf)
	none, _ := startEtcd(t, vxlanConf)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer busy.Close()
	_, taken, err := net.SplitHostPort(busy.Addr().String())
	require.NoError(t, err)
	at := func(url string, more ...string) []string { return append(more, "--etcd-endpoints="+url) }
	for _, tc := range []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"flag", []string{"--no-such-flag"}, 2, "flag provided but not defined"},
		{"flag without its value", []string{"--store-wait"}, 2, "flag needs an argument"},
		{"time", []string{"--store-wait=soon"}, 2, "invalid value"},
		{"command", []string{"dance"}, 2, `there is no command "dance"`},
		{"endpoint", []string{"--etcd-endpoints=localhost"}, 2, "is not a URL"},
		{"no endpoint", []string{"--etcd-endpoints="}, 2, "Endpoints: are missing"},
		{"password of nobody", []string{"--etcd-password=secret"}, 2, "Username: is missing"},
		{"pattern", []string{"--iface-regex=("}, 2, "is not a pattern"},
		{"reach", []string{"--iface-can-reach=router"}, 2, "is not an address"},
		{"public address", []string{"--public-ip=node-1"}, 2, "is not an address"},
		{"public IPv6 address", []string{"--public-ipv6=192.0.2.1"}, 2, "is not an IPv6 address"},
		{"level", []string{"--log-level=loud"}, 2, "is no level"},
		{"format", []string{"--log-format=xml"}, 2, "is no format"},
		{"health port", []string{"--healthz-port=70000"}, 2, "is not an address and a port"},
		{"CA", []string{"--etcd-cafile=/none"}, 2, "--etcd-cafile: open /none: no such file"},
		{"no certificate", []string{"--etcd-cafile=/dev/null"}, 2, "has no certificate in it"},
		{"certificate", []string{"--etcd-certfile=/none"}, 2, "--etcd-certfile, --etcd-keyfile: open /none: no such file"},
		{"store away", at(loopback.FreeURL(t), "--store-wait=100ms"), 1, "has not told the network within 100ms"},
		{"no network", at(none, "--store-wait=100ms", "--etcd-prefix=/elsewhere"), 1, "no network configured: etcd has nothing at /elsewhere/config"},
		{"backend", at(url), 1, "is not one that this daemon has"},
		{"network", at(bad), 1, "SubnetLen"},
		{"interface", at(good, "--iface=eth9"), 1, "underlay: no interface can be the underlay"},
		{"network namespace", at(good, "--netns=/none"), 1, "/none"},
		{"health port taken", at(good, "--healthz-ip=127.0.0.1", "--healthz-port="+taken), 1, "health endpoints: listen tcp 127.0.0.1:" + taken},
		{"embedded at no URL", []string{"--etcd-listen=localhost:2379"}, 2, "is not a URL"},
		{"embedded data", []string{"--etcd-listen=" + loopback.FreeURL(t), "--etcd-data=/dev/null/none"}, 1, "embedded etcd: "},
		{"embedded where somebody is", []string{"--etcd-listen=" + good, "--etcd-data=" + t.TempDir()}, 1, "address already in use"},
		{"embedded alone among others", []string{"--etcd-listen=" + loopback.FreeURL(t), "--etcd-data=" + t.TempDir(), "--etcd-cluster=b=http://127.0.0.1:1"}, 1, "has no member a"},
		{"etcd nowhere", []string{"etcd"}, 1, "--etcd-listen: is missing"},
		{"no plugin", []string{"--cni-plugin=/none", "install"}, 1, "install the CNI plugin: open /none: no such file"},
		{"docker before the daemon", []string{"docker-opts"}, 1, "the daemon has not written the node's subnet yet"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, log bytes.Buffer
			dir := t.TempDir()
			args := append([]string{"--node-name=a", "--subnet-file=" + dir + "/s", "--state-file=" + dir + "/l", "--cni-state-dir=" + dir + "/c"}, tc.args...)
			assert.Equal(t, tc.status, run(t.Context(), args, func(string) string { return "" }, &out, &log))
			assert.Contains(t, sentence(t, log.String()), tc.want)
			assert.NoFileExists(t, dir+"/s")
		})
	}
}

// sentence is what the command says at its end: one line, once.
func sentence(t *testing.T, log string) string {
	t.Helper()
	before, last, found := strings.Cut(log, "podweft-flannel: ")
	require.True(t, found, log)
	assert.True(t, before == "" || strings.HasSuffix(before, "\n"), log)
	assert.Equal(t, 1, strings.Count(last, "\n"), log)
	assert.NotContains(t, last, "podweft-flannel:")
	return last
}

// TestUnprivileged: without a right to the node's network the daemon ends, and says what it wants, wherever it is refused.
func TestUnprivileged(t *testing.T) {
	for _, tc := range []struct {
		name    string
		without []string // flags
		forward string
		want    string
	}{
		{"not let in", nil, "0", "network namespace: "},
		{"sysctls", []string{"--netns"}, "0", "set sysctl net/ipv4/ip_forward=1: it is 0 and cannot be changed from here"},
		{"masquerade", []string{"--netns"}, "1", "masquerade: list ruleset generation: operation not permitted: this takes the capability NET_ADMIN"},
		{"network", []string{"--netns", "--ip-masq"}, "1", "operation not permitted: this takes the capability NET_ADMIN"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1, Outside: true}).Nodes[0]
			require.NoError(t, n.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte(tc.forward), 0) }))
			a := newAgent(t, n, "a", startEtcdInside(t, n))
			a.args = slices.DeleteFunc(a.args, func(arg string) bool {
				return slices.Contains(tc.without, arg) || tc.without != nil && arg == n.NetNS()
			})
			cmd, log := a.command(), &lockedBuffer{}
			cmd.Stderr = log
			// In a user namespace of its own it is root there, and nobody in the node's network namespace, which it is in.
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
			require.NoError(t, n.Do(cmd.Start))
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			select {
			case err := <-ended:
				require.Error(t, err)
			case <-time.After(patience):
				_ = cmd.Process.Kill()
				<-ended
				require.FailNow(t, "it goes on", log.String())
			}
			assert.Contains(t, sentence(t, log.String()), tc.want)
			assert.NoFileExists(t, a.path("subnet.env"))
		})
	}
}

// startEtcdInside is startEtcd for those who are in the node's network namespace.
func startEtcdInside(t *testing.T, n *testnet.Node) (url string) {
	t.Helper()
	cfg := embedded.Config{Dir: t.TempDir(), Client: loopback.FreeURL(t)}
	s, err := embedded.Start(t.Context(), cfg)
	require.NoError(t, err)
	configure(t, cfg.Client, vxlanConf)
	s.Stop()
	text, err := json.Marshal(cfg)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"="+etcdRole, etcdVar+"="+string(text))
	require.NoError(t, n.Do(cmd.Start))
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cfg.Client
}

// TestUserOfNoEtcd: where a user is to be checked, and nobody there to do it, that is what the daemon says.
func TestUserOfNoEtcd(t *testing.T) {
	cfg := etcd.Config{Endpoints: []string{loopback.FreeURL(t)}, Username: "flannel", Password: "secret", Timeout: 50 * time.Millisecond}
	_, err := openStore(t.Context(), cfg, 50*time.Millisecond)
	assert.ErrorContains(t, err, "etcd has not checked the user flannel within 50ms: ")
}

// TestCutShort: a start that its caller ends is no failure, whatever it waited for then.
func TestCutShort(t *testing.T) {
	o, _, err := ParseOptions([]string{"--cni-state-dir=", "--etcd-endpoints=" + loopback.FreeURL(t)}, func(string) string { return "" }, io.Discard)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.NoError(t, Run(ctx, o))
}

func TestEnvironment(t *testing.T) {
	env := map[string]string{"FLANNELD_ETCD_ENDPOINTS": "http://a:1,http://b:2", "FLANNELD_IP_MASQ": "true", "FLANNELD_IFACE": "eth7"}
	o, rest, err := ParseOptions([]string{"-iface=eth1", "plan"}, func(name string) string { return env[name] }, io.Discard)
	require.NoError(t, err)
	assert.Equal(t, []string{"plan"}, rest)
	assert.Equal(t, []string{"http://a:1", "http://b:2"}, o.Etcd.Endpoints)
	assert.True(t, o.IPMasq)
	assert.Equal(t, "eth1", o.Underlay.Name, "a flag counts more than the environment")
	o, _, err = ParseOptions([]string{"-iface=eth1", "-iface=eth2", "-iface-regex=^eth", "-iface-can-reach=192.0.2.1"}, func(string) string { return "" }, io.Discard)
	require.NoError(t, err)
	require.Len(t, o.choices, 3, "each in its turn")
	assert.Equal(t, node.Choice{Name: "eth2", Reach: netip.MustParseAddr("192.0.2.1")}, o.choices[1])
	assert.Equal(t, "^eth", o.choices[2].Match.String())
	o, _, err = ParseOptions([]string{"-iface=eth1", "-public-ip=192.0.2.1", "-public-ipv6=2001:db8::1"}, func(string) string { return "" }, io.Discard)
	require.NoError(t, err)
	public := subnet.Addrs{V4: netip.MustParseAddr("192.0.2.1"), V6: netip.MustParseAddr("2001:db8::1")}
	assert.Equal(t, node.Choice{Name: "eth1", Public: public}, o.Underlay)
	_, _, err = ParseOptions(nil, func(string) string { return "?" }, io.Discard)
	assert.ErrorContains(t, err, "FLANNELD_")
}

// TestFlanneldsFlags: a command line of flanneld's works as it is, and what changes nothing here is said.
func TestFlanneldsFlags(t *testing.T) {
	env := map[string]string{"FLANNELD_IPTABLES_RESYNC": "60"}
	o, rest, err := ParseOptions([]string{
		"-etcd-endpoints=https://10.0.0.1:2379", "-etcd-prefix=/kube/network", "-ip-masq", "-v=4", "-vmodule", "a=1",
		"--subnet-lease-renew-margin=60", "--subnet-lease-renew-margin=61", "--ip-blackhole-route", "--ip-masq-fully-random-disable=false",
		"--iptables-forward-rules=false", "--healthz-port=10248", "--set-node-network-unavailable=false",
	}, func(name string) string { return env[name] }, io.Discard)
	require.NoError(t, err)
	assert.Empty(t, rest)
	assert.Equal(t, "debug", o.LogLevel)
	var log bytes.Buffer
	o.tellIdle(t.Context(), slog.New(slog.NewTextHandler(&log, nil)))
	for _, flag := range []string{"vmodule", "subnet-lease-renew-margin", "ip-blackhole-route", "iptables-resync"} {
		assert.Equal(t, 1, strings.Count(log.String(), "flag="+flag+" "), flag)
	}
	assert.NotContains(t, log.String(), "fully-random")

	var out, errs bytes.Buffer
	assert.Zero(t, run(t.Context(), []string{"--version"}, func(string) string { return "" }, &out, &errs))
	assert.Regexp(t, `^podweft-flannel \S+\n$`, out.String())
	assert.Empty(t, errs.String())
}
