package cri_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/testnet"
)

const patience = 60 * time.Second

// node is a machine with a lease, on which a runtime can be started.
type node struct {
	*testnet.Node
	number int
	dir    string
	boss   *exec.Cmd // the first process; nil before start
}

// cluster is two nodes that know the way to each other's pods.
func cluster(t *testing.T) []*node {
	t.Helper()
	fabric := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 2})
	var all []*node
	for i, n := range fabric.Nodes {
		all = append(all, &node{Node: n, number: i + 1, dir: t.TempDir()})
	}
	for i, n := range all {
		other := all[1-i]
		d, err := hostgw.New(hostgw.Config{NetNS: n.NetNS()})
		require.NoError(t, err)
		_, err = d.Apply(t.Context(), hostgw.Spec{Device: "eth0", Peers: []hostgw.Peer{
			{Node: other.Name, Underlay: other.V4, Prefixes: []netip.Prefix{other.subnet(4)}},
			{Node: other.Name, Underlay: other.V6, Prefixes: []netip.Prefix{other.subnet(6)}},
		}})
		require.NoError(t, err)
		require.NoError(t, d.Close())
		require.NoError(t, n.Do(func() error {
			if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
				return err
			}
			return os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0)
		}))
		n.write(t, "subnet.env", fmt.Sprintf(`FLANNEL_NETWORK=10.244.0.0/16
FLANNEL_SUBNET=10.244.%[1]d.1/24
FLANNEL_IPV6_NETWORK=fd00:244::/48
FLANNEL_IPV6_SUBNET=fd00:244:0:%[1]d::1/64
FLANNEL_MTU=1500
FLANNEL_IPMASQ=false
`, n.number))
	}
	return all
}

// subnet is that of the node's pods, in one family.
func (n *node) subnet(family int) netip.Prefix {
	if family == 4 {
		return netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", n.number))
	}
	return netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%d::/64", n.number))
}

func (n *node) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(n.dir, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// start runs script as the first process of the node's own processes, with its own /run and /var/lib/cni. When it is killed, so is
// everything that it has started.
func (n *node) start(t *testing.T, script string) {
	t.Helper()
	log, err := os.Create(filepath.Join(n.dir, "log"))
	require.NoError(t, err)
	t.Cleanup(func() {
		log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s:\n%s", n.Name, text[max(0, len(text)-8000):])
		}
	})
	mounts := fmt.Sprintf(`set -e
for d in /run /var/lib/cni /var/lib/containers; do mkdir -p $d; mount -t tmpfs tmpfs $d; done
mkdir -p /run/flannel /run/netns
cp %s/subnet.env /run/flannel/
`, n.dir)
	n.boss = n.Command(context.WithoutCancel(t.Context()), "unshare", "-m", "-p", "-f", "--kill-child", "--mount-proc", "--propagation", "private", "sh", "-c", mounts+script)
	n.boss.Stdout, n.boss.Stderr = log, log
	require.NoError(t, n.boss.Start())
	t.Cleanup(func() {
		_ = n.boss.Process.Kill()
		_ = n.boss.Wait()
	})
}

// first is the id of the first of the node's own processes.
func (n *node) first(t *testing.T) (pid string) {
	t.Helper()
	parent := n.boss.Process.Pid
	eventually(t, "the node's first process", func(context.Context) error {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
		if pid = strings.TrimSpace(string(raw)); err == nil && pid == "" {
			err = os.ErrProcessDone
		}
		return err
	})
	return pid
}

// file is a path as the node's processes see it.
func (n *node) file(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", n.boss.Process.Pid, path)
}

// get asks for a page from the node itself.
func (n *node) get(ctx context.Context, url string) (text string, err error) {
	err = n.Do(func() error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		// The connection is made here: other goroutines are in another namespace.
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		conn, err := net.Dial("tcp", request.Host)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := fmt.Fprintf(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		raw, err := io.ReadAll(conn)
		text = string(raw)
		return err
	})
	return text, err
}

// links are the names of the node's.
func (n *node) links(t *testing.T) (names []string) {
	t.Helper()
	all, err := n.Links()
	require.NoError(t, err)
	for _, l := range all {
		names = append(names, l.Name)
	}
	return names
}

// records are the files that the plugin keeps of what is attached.
func (n *node) records(t *testing.T) (names []string) {
	t.Helper()
	for _, dir := range []string{"attachments", "hostports"} {
		entries, err := os.ReadDir(n.file("/run/podweft/" + dir))
		if !os.IsNotExist(err) {
			require.NoError(t, err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	return names
}
