package cniplugin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/internal/netns"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/testnet"
)

// reference is where distributions put the reference plugins.
const reference = "/usr/lib/cni"

// build builds the program as it is shipped, and one that does nothing.
func build(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	for from, of := range map[string]string{"../examples": "./cmd/podweft-cni", "testdata": "./nothing"} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, filepath.Base(of)), of)
		cmd.Dir, cmd.Env = from, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Skipf("the example cannot be built here: %s", out)
		}
	}
	for _, name := range []string{"flannel", "ptp", "portmap"} {
		require.NoError(b, os.Symlink("podweft-cni", filepath.Join(dir, name)))
	}
	return dir
}

// pods makes namespaces for pods beforehand.
func pods(b *testing.B, n int) (all []*os.File) {
	b.Helper()
	for range n {
		f, err := netns.New()
		require.NoError(b, err)
		all = append(all, f)
	}
	b.Cleanup(func() {
		for _, f := range all {
			f.Close()
		}
	})
	return all
}

// BenchmarkRuntime attaches 200 pods through the CNI project's library, with this plugin and, where they are installed, the
// reference plugins: one after the other, then eight at once. One iteration is enough: -test.benchtime 1x. With -short 20 pods are.
func BenchmarkRuntime(b *testing.B) {
	testnet.Require(b)
	require.NoError(b, unix.Mount("bench", "/run", "tmpfs", 0, "")) // where our state is, host-local's lock and xtables'
	require.NoError(b, unix.Mount("bench", "/var/lib", "tmpfs", 0, ""))
	dir := build(b)
	n := newNode(b)
	ports := map[string]bool{"portMappings": true}
	ipam := func(i int) map[string]any {
		return map[string]any{"type": "host-local", "ranges": [][]map[string]string{{{"subnet": fmt.Sprintf("10.%d.0.0/16", i)}}}}
	}
	ours := func(i int) map[string]any {
		return n.conf(map[string]any{
			"bridge": fmt.Sprintf("bench%d", i), "ipMasq": true, "ipam": ipam(i), "capabilities": ports, "stateDir": nil,
		})
	}
	theirs := func(i int) map[string]any {
		return map[string]any{"type": "bridge", "bridge": fmt.Sprintf("bench%d", i), "isDefaultGateway": true, "hairpinMode": true, "ipam": ipam(i)}
	}
	tests := []struct {
		name    string
		dir     string
		port    bool
		plugins []any
	}{
		{"ours/bridge, addresses, masquerade", dir, false, []any{ours(101)}},
		{"ours/bridge, addresses, masquerade, with an agent", dir, false, []any{ours(108)}},
		{"reference/bridge, addresses", reference, false, []any{theirs(102)}},
		{"ours/ptp, addresses, masquerade", dir, false, []any{
			n.conf(map[string]any{"type": "ptp", "ipMasq": true, "ipam": ipam(105), "stateDir": nil}),
		}},
		{"reference/ptp, addresses", reference, false, []any{map[string]any{"type": "ptp", "ipam": ipam(106)}}},
		{"nothing", dir, false, []any{map[string]any{"type": "nothing"}}},
		{"ours/and a host port", dir, true, []any{ours(103)}},
		{"ours/and a host port, with an agent", dir, true, []any{ours(107)}},
		{"ours/flannel and portmap", dir, true, []any{
			n.conf(map[string]any{
				"type": "flannel", "delegate": map[string]any{"hairpinMode": true, "isDefaultGateway": true}, "stateDir": nil,
			}),
			map[string]any{"type": "portmap", "capabilities": ports},
		}},
		{"reference/and a host port", reference, true, []any{theirs(104), map[string]any{"type": "portmap", "capabilities": ports}}},
	}
	b.Cleanup(func() { forgetLinks(b, "bench") }) // the reference plugins' bridges bear no mark
	for _, test := range tests {
		for _, parallel := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/parallel=%d", test.name, parallel), func(b *testing.B) {
				if _, err := os.Stat(test.dir); err != nil {
					b.Skip(err)
				}
				name := fmt.Sprintf("bench-%d-%d", len(test.name), parallel)
				raw, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": name, "plugins": test.plugins})
				require.NoError(b, err)
				list, err := libcni.ConfListFromBytes(raw)
				require.NoError(b, err)
				if strings.HasSuffix(test.name, "with an agent") {
					a, err := cniplugin.NewAgent(cniplugin.AgentConfig{})
					require.NoError(b, err)
					defer start(b, a.Run)()
				}
				for b.Loop() {
					b.StopTimer()
					runtime(b, test.dir, list, test.port, parallel)
					b.StartTimer()
				}
				b.ReportMetric(0, "ns/op")
				forgetBridge(b, name)
			})
		}
	}
}

// forgetLinks deletes the process's own links whose names begin so.
func forgetLinks(b *testing.B, prefix string) {
	conn, err := nl.Dial("")
	require.NoError(b, err)
	defer conn.Close()
	all, err := conn.Links()
	require.NoError(b, err)
	var batch nl.Batch
	for _, l := range all {
		if strings.HasPrefix(l.Name, prefix) {
			batch.DeleteLink(l.Index)
		}
	}
	require.NoError(b, errors.Join(conn.Do(context.Background(), &batch)...))
}

// runtime does what a runtime does for 200 pods, and reports how long each took.
func runtime(b *testing.B, dir string, list *libcni.NetworkConfigList, port bool, parallel int) {
	many := 200
	if testing.Short() {
		many = 20
	}
	all := pods(b, many)
	exec := &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: io.Discard}}
	cni := libcni.NewCNIConfigWithCacheDir([]string{dir}, b.TempDir(), exec)
	conf := func(i int) *libcni.RuntimeConf {
		rt := &libcni.RuntimeConf{ContainerID: fmt.Sprintf("pod-%d", i), NetNS: netns.Path(all[i]), IfName: "eth0"}
		if port {
			rt.CapabilityArgs = map[string]any{"portMappings": []any{
				map[string]any{"hostPort": 20000 + i, "containerPort": 80, "protocol": "tcp"},
			}}
		}
		return rt
	}
	timed := func(what string, do func(i int) error) {
		took := make([]time.Duration, many)
		begin := time.Now()
		var wg sync.WaitGroup
		next := make(chan int)
		for range parallel {
			wg.Go(func() {
				for i := range next {
					start := time.Now()
					if err := do(i); err != nil {
						b.Error(err)
					}
					took[i] = time.Since(start)
				}
			})
		}
		for i := range many {
			next <- i
		}
		close(next)
		wg.Wait()
		b.ReportMetric(float64(many)/time.Since(begin).Seconds(), what+"/s")
		slices.Sort(took)
		b.ReportMetric(took[many/2].Seconds()*1000, "ms/"+what+"-median")
		b.ReportMetric(took[many*99/100].Seconds()*1000, "ms/"+what+"-p99")
	}
	timed("ADD", func(i int) error {
		_, err := cni.AddNetworkList(context.Background(), list, conf(i))
		return err
	})
	timed("DEL", func(i int) error { return cni.DelNetworkList(context.Background(), list, conf(i)) })
}

// BenchmarkVersion is the program's start-up.
func BenchmarkVersion(b *testing.B) {
	program := filepath.Join(build(b), "podweft-cni")
	var took []time.Duration
	for b.Loop() {
		cmd := exec.Command(program)
		cmd.Env = []string{"CNI_COMMAND=VERSION"}
		start := time.Now()
		require.NoError(b, cmd.Run())
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1000, "ms/median")
	info, err := os.Stat(program)
	require.NoError(b, err)
	b.ReportMetric(float64(info.Size())/1e6, "MB")
}
