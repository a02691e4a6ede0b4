package flannel

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/examples/flannel/embedded"
	"github.com/podweft/podweft/examples/internal/loopback"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/etcd"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

var atLength = flag.Bool("faults", false, "let outages last 30 s, and insist on how soon what comes after them is seen")

// outage is how long a store stays away.
func outage() time.Duration {
	if *atLength {
		return 30 * time.Second
	}
	return 2 * time.Second
}

// stage is two nodes whose pods talk to each other, and the servers of their store.
type stage struct {
	t       testing.TB // the part that runs
	whole   testing.TB
	servers []embedded.Config
	running []*exec.Cmd
	store   *etcd.Store
	fabric  *testnet.Fabric
	a, b    *agent
	from    netip.Addr // a's pod
	to      netip.Addr // b's
}

func newStage(t testing.TB, members int) *stage {
	t.Helper()
	s := &stage{t: t, whole: t, running: make([]*exec.Cmd, members)}
	var urls, cluster []string
	for i := range members {
		cfg := embedded.Config{Name: fmt.Sprint("m", i), Dir: t.TempDir(), Client: loopback.FreeURL(t)}
		if members > 1 {
			cfg.Peer = loopback.FreeURL(t)
			cluster = append(cluster, cfg.Name+"="+cfg.Peer)
		}
		s.servers = append(s.servers, cfg)
		urls = append(urls, cfg.Client)
	}
	for i := range s.servers {
		s.servers[i].Cluster = strings.Join(cluster, ",")
		s.serve(i)
	}
	for _, url := range urls {
		s.serves(url)
	}
	// What is above, the tests put there themselves: no node may have it by chance.
	configure(t, urls[0], `{"Network":"10.244.0.0/16","SubnetMax":"10.244.199.0","Backend":{"Type":"vxlan"}}`)
	store, err := etcd.New(etcd.Config{Endpoints: urls})
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	s.store = store
	s.fabric = testnet.NewFabric(t, testnet.FabricConfig{Nodes: 2, Outside: true})
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	s.a = newAgent(t, s.fabric.Nodes[0], "a", strings.Join(urls, ","))
	s.b = newAgent(t, s.fabric.Nodes[1], "b", strings.Join(urls, ","))
	for _, a := range []*agent{s.a, s.b} {
		a.start()
	}
	s.a.ready()
	s.b.ready()
	s.from, s.to = s.a.pod(), s.b.pod()
	reaches(t, s.fabric.Nodes[0], s.from, s.to)
	return s
}

// serve starts a server, at first or again: in a process of its own, so that it can be killed.
func (s *stage) serve(i int) {
	s.t.Helper()
	cfg, err := json.Marshal(s.servers[i])
	require.NoError(s.t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"="+etcdRole, etcdVar+"="+string(cfg))
	require.NoError(s.t, cmd.Start())
	s.running[i] = cmd
	s.whole.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// serves waits until the server at the URL does.
func (s *stage) serves(url string) {
	s.t.Helper()
	serving(s.t, url)
}

// stop kills a server.
func (s *stage) stop(i int) {
	_ = s.running[i].Process.Kill()
	_ = s.running[i].Wait()
}

// leads reports whether the server is the one that leads.
func (s *stage) leads(i int) bool {
	s.t.Helper()
	var status struct {
		Leader string
		Header struct {
			MemberID string `json:"member_id"`
		}
	}
	s.ask(s.servers[i].Client, "/v3/maintenance/status", struct{}{}, &status)
	return status.Leader == status.Header.MemberID
}

// talking runs something while the pods talk, and returns how many packets got lost.
func (s *stage) talking(what func()) (lost int) {
	s.t.Helper()
	stop := pings(s.t, s.fabric.Nodes[0], s.from, s.to)
	time.Sleep(50 * time.Millisecond)
	what()
	time.Sleep(50 * time.Millisecond)
	sent, lost := stop()
	s.t.Logf("%d pings, %d lost", sent, lost)
	return lost
}

// claim leases a subnet to a node that is not there.
func (s *stage) claim(i int) *subnet.Lease {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		l, err := s.store.Acquire(s.t.Context(), absent(i))
		if err == nil {
			return l
		}
		require.True(s.t, time.Now().Before(deadline), "no lease: %v", err)
	}
}

func absent(i int) subnet.Claim {
	return subnet.Claim{
		Node: fmt.Sprint("absent-", i), Backend: vxlan.Type, Underlay: subnet.Addrs{V4: netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)})},
		Data: subnet.Data{V4: vtepData(podweft.MAC{2, 0, 0, 0, 0, byte(i)})},
	}
}

func vtepData(mac podweft.MAC) json.RawMessage {
	return fmt.Appendf(nil, `{"VNI":1,"VtepMAC":%q}`, mac)
}

// entries is what a's kernel has for peers: the routes, neighbours and forwarding entries of its VTEP, a line each.
func (s *stage) entries() []string {
	s.t.Helper()
	h := s.a.netlink()
	vtep, err := h.LinkByName("flannel.1")
	require.NoError(s.t, err)
	var lines []string
	routes, err := h.RouteList(vtep, netlink.FAMILY_V4)
	require.NoError(s.t, err)
	for _, r := range routes {
		lines = append(lines, fmt.Sprint("route ", r.Dst))
	}
	for _, family := range []int{netlink.FAMILY_V4, syscall.AF_BRIDGE} {
		neighbours, err := h.NeighList(vtep.Attrs().Index, family)
		require.NoError(s.t, err)
		for _, n := range neighbours {
			lines = append(lines, fmt.Sprintf("%v lladdr %v", n.IP, n.HardwareAddr))
		}
	}
	slices.Sort(lines)
	return lines
}

// expect are the lines of a lease.
func expect(l *subnet.Lease, mac podweft.MAC) []string {
	return []string{
		"route " + l.Prefixes.V4.String(),
		fmt.Sprintf("%s lladdr %s", l.Prefixes.V4.Addr(), mac),
		fmt.Sprintf("%s lladdr %s", l.Underlay.V4, mac),
	}
}

// until waits for a's kernel to have some lines and not to have others, as far as they are not among the first: a new lease may be of the
// subnet of one that is gone.
func (s *stage) until(with, without []string) time.Duration {
	s.t.Helper()
	begun := time.Now()
	for {
		have := s.entries()
		missing := slices.ContainsFunc(with, func(line string) bool { return !slices.Contains(have, line) })
		extra := slices.ContainsFunc(without, func(line string) bool { return slices.Contains(have, line) && !slices.Contains(with, line) })
		if !missing && !extra {
			return time.Since(begun)
		}
		require.Less(s.t, time.Since(begun), patience, "want %q, not %q, have %q\n%s", with, without, have, s.a.log)
		time.Sleep(5 * time.Millisecond)
	}
}

// ask does by hand what an operator does with etcdctl, over the server's HTTP gateway.
func (s *stage) ask(url, path string, request, answer any) {
	s.t.Helper()
	s.serves(url)
	body, err := json.Marshal(request)
	require.NoError(s.t, err)
	r, err := http.Post(url+path, "application/json", bytes.NewReader(body))
	require.NoError(s.t, err)
	defer r.Body.Close()
	require.Equal(s.t, http.StatusOK, r.StatusCode, path)
	require.NoError(s.t, json.NewDecoder(r.Body).Decode(answer))
}

func (s *stage) put(key, value string) {
	s.t.Helper()
	s.ask(s.servers[0].Client, "/v3/kv/put", map[string][]byte{"key": []byte(etcd.DefaultPrefix + "/subnets/" + key), "value": []byte(value)}, &struct{}{})
}

func (s *stage) remove(key string) {
	s.t.Helper()
	s.ask(s.servers[0].Client, "/v3/kv/deleterange", map[string][]byte{"key": []byte(etcd.DefaultPrefix + "/subnets/" + key)}, &struct{}{})
}

func (s *stage) present() *subnet.Snapshot {
	s.t.Helper()
	return present(s.t, s.store)
}

// TestFaults: whatever becomes of the store and of what is in it, pods go on talking, and the kernel ends up with what is true.
func TestFaults(t *testing.T) {
	s := newStage(t, 1)
	mac := func(i byte) podweft.MAC { return podweft.MAC{2, 0, 0, 0, 0, i} }
	fault := func(name string, what func()) {
		t.Run(name, func(t *testing.T) {
			s.t = t
			defer func() { s.t = s.whole }()
			assert.Zero(t, s.talking(what), "pods have noticed")
		})
	}

	fault("store away", func() {
		s.stop(0)
		time.Sleep(outage())
		s.serve(0)
		took := s.until(expect(s.claim(1), mac(1)), nil)
		s.t.Logf("a lease put after the return was in the kernel after %s", took)
		if *atLength {
			assert.Less(s.t, took, 2*time.Second)
		}
	})

	fault("history compacted meanwhile", func() {
		gone := s.claim(2)
		s.until(expect(gone, mac(2)), nil)
		usual := s.servers[0]
		s.stop(0)
		s.servers[0].Client = loopback.FreeURL(s.t) // where nobody but us finds it
		s.serve(0)
		s.remove(gone.Key)
		s.ask(s.servers[0].Client, "/v3/kv/compaction", map[string]any{"revision": s.revision()}, &struct{}{})
		s.stop(0)
		s.servers[0] = usual
		s.serve(0)
		s.until(expect(s.claim(3), mac(3)), expect(gone, mac(2)))
	})

	t.Run("own lease deleted", func(t *testing.T) {
		s.t = t
		own := s.present().Lease("a")
		require.NotNil(t, own)
		// What the others have heard of is gone for a moment, and so are packets to the node.
		s.talking(func() {
			s.remove(own.Key)
			again := own
			for deadline := time.Now().Add(patience); again == nil || again.Revision == own.Revision; again = s.present().Lease("a") {
				require.True(t, time.Now().Before(deadline), "not claimed again: %s", s.a.log)
			}
			assert.Equal(t, own.Prefixes, again.Prefixes)
			assert.Equal(t, own.Underlay, again.Underlay)
			assert.Equal(t, own.Data, again.Data)
			reaches(t, s.fabric.Nodes[0], s.from, s.to)
		})
	})

	fault("peer moved", func() {
		before := s.claim(4)
		s.until(expect(before, mac(4)), nil)
		moved := *before
		moved.Underlay.V4, moved.Data.V4 = netip.MustParseAddr("192.0.2.200"), vtepData(mac(44))
		after, err := s.store.Update(s.t.Context(), &moved)
		require.NoError(s.t, err)
		route := "route " + before.Prefixes.V4.String()
		stale := slices.DeleteFunc(expect(before, mac(4)), func(line string) bool { return line == route })
		s.until(expect(after, mac(44)), stale)
	})

	fault("peer gone while the daemon was down", func() {
		gone := s.claim(5)
		s.until(expect(gone, mac(5)), nil)
		_ = s.a.kill(syscall.SIGKILL)
		require.NoError(s.t, s.store.Release(s.t.Context(), gone))
		assert.Subset(s.t, s.entries(), expect(gone, mac(5)), "the kernel keeps what a killed daemon made")
		s.a.start()
		s.a.ready()
		assert.NotSubset(s.t, s.entries(), expect(gone, mac(5))[:1], "ready, and an old route is there")
		s.until(nil, expect(gone, mac(5)))
	})

	fault("hostile peers", func() {
		a, b := s.present().Lease("a"), s.present().Lease("b")
		other := netip.MustParsePrefix("10.244.250.0/24")
		name := func(p netip.Prefix) string { return strings.ReplaceAll(p.String(), "/", "-") }
		value := func(ip, kind, data string) string {
			return fmt.Sprintf(`{"PublicIP":%q,"PublicIPv6":null,"BackendType":%q,"BackendData":%s}`, ip, kind, data)
		}
		hostile := map[string]string{
			"10.244.251.0-24":             `{"PublicIP":`,
			"10.244.252.0-24":             value("127.0.0.1", "vxlan", `{"VNI":1,"VtepMAC":"02:00:00:00:01:01"}`),
			"10.244.253.0-24":             value("192.0.2.131", "vxlan", `{"VNI":1,"VtepMAC":"ff:ff:ff:ff:ff:ff"}`),
			"10.244.254.0-24":             value("192.0.2.132", "vxlan", string(b.Data.V4)),
			"0.0.0.0-0":                   value("192.0.2.133", "vxlan", `{"VNI":1,"VtepMAC":"02:00:00:00:01:02"}`),
			"leased/" + name(other):       `[]`,
			strings.Repeat("x", 1<<10):    strings.Repeat("y", 1<<16),
			"10.244.249.0-24&fd00::-7777": value(a.Underlay.V4.String(), "vxlan", `[1,2,3]`),
		}
		for key, text := range hostile {
			s.put(key, text)
		}
		claimed := s.claim(6)
		everything := "10.244.0.0-16" // after which there is none to claim
		hostile[everything] = value("192.0.2.134", "vxlan", `{"VNI":1,"VtepMAC":"02:00:00:00:01:03"}`)
		s.put(everything, hostile[everything])
		s.until(expect(claimed, mac(6)), nil)
		_, metrics := s.a.ask("/metrics")
		assert.NotContains(s.t, metrics, "podweft_leases_left_out 0\n")
		for key := range hostile {
			s.remove(key)
		}
	})

	t.Run("own subnet taken", func(t *testing.T) {
		s.t = t
		own := s.present().Lease("a")
		s.put(own.Key, `{"PublicIP":"192.0.2.99","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:09:09"}}`)
		require.Error(t, s.a.cmd.Wait(), "the daemon has to say that its pods must be started anew")
		assert.Contains(t, s.a.log.String(), "lease lost: "+own.Prefixes.String())
		assert.NoFileExists(t, s.a.path("subnet.env"), "a plugin would give out another node's addresses")
	})
}

// revision is etcd's present one.
func (s *stage) revision() string {
	s.t.Helper()
	var answer struct{ Header struct{ Revision string } }
	s.ask(s.servers[0].Client, "/v3/kv/range", map[string][]byte{"key": []byte("/")}, &answer)
	return answer.Header.Revision
}

// TestLeaderLost: of the store's three servers the one that leads is stopped.
func TestLeaderLost(t *testing.T) {
	s := newStage(t, 3)
	assert.Zero(t, s.talking(func() {
		for i := range s.servers {
			if s.leads(i) {
				s.stop(i)
				break
			}
		}
		s.until(expect(s.claim(1), podweft.MAC{2, 0, 0, 0, 0, 1}), nil)
	}), "pods have noticed")
}
