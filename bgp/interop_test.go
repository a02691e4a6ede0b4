package bgp_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
)

// requirePeersVar turns the skip without BIRD or FRR into a failure.
const requirePeersVar = "PODWEFT_REQUIRE_BGP_PEERS"

// router is what another program is to do: number two of a fabric, with its own blocks to advertise.
type router struct {
	as        uint32
	near      bool // it takes nothing from farther away than the link
	reflects  bool
	password  string
	neighbors []neighbor
	self      *testnet.Node
}

type neighbor struct {
	addr netip.Addr
	as   uint32
}

// local is the router's own address in the session.
func (r router) local(n neighbor) netip.Addr {
	if n.addr.Is4() {
		return r.self.V4
	}
	return r.self.V6
}

// daemon is another program that speaks BGP, from Debian's package.
type daemon struct {
	name, binary string
	config       func(r router) string
	args         func(dir string) []string

	// kernel is the command that programs routes for it, where that is another program; nil where it does so itself.
	kernel   func(dir string) []string
	ask      func(dir string, questions ...string) *exec.Cmd
	all      []string // the questions whose answers are all that it knows
	sessions string   // the question about its sessions
	// offers reads who offers which next hop from what it says to offered, of which %s is the prefix.
	offered, offeredV6 string
	offers             func(r router, said string) map[netip.Addr]string
	// withdraws are the questions that have it take back that one of its blocks, announces those that have it tell it again.
	withdraws, announces func(r router, own netip.Prefix) []string
}

var daemons = []daemon{bird, frr}

// BIRD needs to be told the next hop of the family that the session does not have.
var bird = daemon{
	name: "bird", binary: "/usr/sbin/bird",
	args: func(dir string) []string {
		return []string{"-f", "-c", dir + "/conf", "-s", dir + "/sock", "-P", dir + "/pid"}
	},
	ask: func(dir string, questions ...string) *exec.Cmd {
		return exec.Command("/usr/sbin/birdc", append([]string{"-s", dir + "/sock"}, questions...)...)
	},
	all: []string{"show route all"}, sessions: "show protocols all",
	withdraws: staticRoute("disable"), announces: staticRoute("enable"),
	offered: "show route %s all", offeredV6: "show route %s all",
	offers: func(r router, said string) map[netip.Addr]string {
		all := map[netip.Addr]string{}
		for _, m := range regexp.MustCompile(`\[bgp(\d+) (?s:.*?)BGP\.next_hop: (\S+)`).FindAllStringSubmatch(said, -1) {
			n, _ := strconv.Atoi(m[1])
			all[r.neighbors[n-1].addr] = m[2]
		}
		return all
	},
	config: func(r router) string {
		var b strings.Builder
		fmt.Fprintf(&b, "log stderr all;\nrouter id %s;\nprotocol device { }\nprotocol direct { ipv4; ipv6; interface \"eth0\"; }\nprotocol kernel { ipv4 { export where source = RTS_BGP; }; }\nprotocol kernel { ipv6 { export where source = RTS_BGP; }; }\n", r.self.V4)
		fmt.Fprintf(&b, "protocol static { ipv4; route %s blackhole; }\nprotocol static { ipv6; route %s blackhole; }\n", v4Block(2), v6Block(2))
		for _, n := range r.neighbors {
			fmt.Fprintf(&b, "protocol bgp { local %s as %d; neighbor %s as %d; connect delay time 1; connect retry time 1; error wait time 1, 2; graceful restart on; debug { states, events };\n", r.local(n), r.as, n.addr, n.as)
			if r.reflects {
				fmt.Fprintln(&b, "rr client;")
			}
			if r.password != "" {
				fmt.Fprintf(&b, "password %q;\n", r.password)
			}
			if r.near {
				fmt.Fprintln(&b, "ttl security on;")
			}
			// A switch at the top of the rack passes on whose hop it is; on one link that is not itself.
			for _, own := range []netip.Addr{r.self.V4, r.self.V6} {
				fmt.Fprintf(&b, "ipv%d { import all; next hop keep; export filter {\n", version(own))
				fmt.Fprintf(&b, "if source = RTS_DEVICE then reject; if source = RTS_STATIC then bgp_next_hop = %s; accept; }; };\n", own)
			}
			fmt.Fprintln(&b, "}")
		}
		return b.String()
	},
}

// FRR's bgpd has zebra program its routes. In a namespace of its own, with a socket of its own, that one meets no other.
var frr = daemon{
	name: "frr", binary: "/usr/lib/frr/bgpd",
	args: func(dir string) []string {
		return []string{"-f", dir + "/conf", "-i", dir + "/pid", "-z", dir + "/zebra", "--vty_socket", dir, "-P", "0", "-S", "--log", "stdout"}
	},
	// It insists on a user who is in the group frrvty (lib/privs.c), and -S it does not have: who is root, perhaps of no more than a user
	// namespace, is in that group as far as it can see.
	kernel: func(dir string) []string {
		const command = `mount --bind "$0/group" /etc/group && exec /usr/lib/frr/zebra -u root -g root -f "$0/vtysh.conf" -i "$0/zebra.pid" ` +
			`-z "$0/zebra" --vty_socket "$0" -P 0 --log stdout`
		return []string{"unshare", "--mount", "sh", "-c", command, dir}
	},
	ask: func(dir string, questions ...string) *exec.Cmd {
		args := []string{"--vty_socket", dir, "--config_dir", dir, "-d", "bgpd"}
		for _, q := range questions {
			args = append(args, "-c", q)
		}
		return exec.Command("vtysh", args...)
	},
	all: []string{"show bgp ipv4 unicast", "show bgp ipv6 unicast wide"}, sessions: "show bgp neighbors",
	withdraws: network("no network %s"), announces: network("network %s route-map own"),
	offered: "show bgp ipv4 unicast %s", offeredV6: "show bgp ipv6 unicast %s",
	offers: func(_ router, said string) map[netip.Addr]string {
		all := map[netip.Addr]string{}
		for _, m := range regexp.MustCompile(`(\S+) from (\S+) \(`).FindAllStringSubmatch(said, -1) {
			all[netip.MustParseAddr(m[2])] = m[1]
		}
		return all
	},
	config: func(r router) string {
		var b strings.Builder
		fmt.Fprintf(&b, "debug bgp neighbor-events\nrouter bgp %d\n bgp router-id %s\n no bgp ebgp-requires-policy\n no bgp network import-check\n bgp graceful-restart\n timers bgp 10 30\n", r.as, r.self.V4)
		for _, n := range r.neighbors {
			fmt.Fprintf(&b, " neighbor %s remote-as %d\n neighbor %s timers connect 1\n neighbor %s disable-connected-check\n", n.addr, n.as, n.addr, n.addr)
			if r.password != "" {
				fmt.Fprintf(&b, " neighbor %s password %s\n", n.addr, r.password)
			}
			if r.near {
				fmt.Fprintf(&b, " neighbor %s ttl-security hops 1\n", n.addr)
			}
		}
		for _, f := range []string{"ipv4", "ipv6"} {
			fmt.Fprintf(&b, " address-family %s unicast\n", f)
			own := v4Block(2)
			if f == "ipv6" {
				own = v6Block(2)
			}
			fmt.Fprintf(&b, "  network %s route-map own\n", own)
			for _, n := range r.neighbors {
				fmt.Fprintf(&b, "  neighbor %s activate\n  neighbor %s attribute-unchanged next-hop\n", n.addr, n.addr)
				if r.reflects {
					fmt.Fprintf(&b, "  neighbor %s route-reflector-client\n", n.addr)
				}
			}
			fmt.Fprintln(&b, " exit-address-family")
		}
		fmt.Fprintf(&b, "route-map own permit 10\n set ip next-hop %s\n set ipv6 next-hop global %s\n", r.self.V4, r.self.V6)
		return b.String()
	},
}

// version is that of IP, as it stands in configurations.
func version(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

func staticRoute(verb string) func(router, netip.Prefix) []string {
	return func(_ router, own netip.Prefix) []string {
		number := map[int]int{4: 1, 6: 2}[version(own.Addr())] // in the order of the configuration
		return []string{fmt.Sprintf("%s static%d", verb, number)}
	}
}

func network(statement string) func(router, netip.Prefix) []string {
	return func(r router, own netip.Prefix) []string {
		family := fmt.Sprintf("address-family ipv%d unicast", version(own.Addr()))
		return []string{"configure terminal", fmt.Sprintf("router bgp %d", r.as), family, fmt.Sprintf(statement, own)}
	}
}

// running is a daemon in a node.
type running struct {
	daemon
	dir string
	cmd *exec.Cmd
}

// start starts the daemon inside the node, with its own configuration and sockets. It ends with the test.
func (d daemon) start(t testing.TB, r router) *running {
	t.Helper()
	dir, err := os.MkdirTemp("", "bgp") // TempDir is too long for a unix socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	run := &running{daemon: d, dir: dir}
	require.NoError(t, os.WriteFile(dir+"/conf", []byte(d.config(r)), 0o600))
	require.NoError(t, os.WriteFile(dir+"/vtysh.conf", nil, 0o600))
	require.NoError(t, os.WriteFile(dir+"/group", []byte("root:x:0:\nfrrvty:x:0:root\n"), 0o600))
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(run.dir + "/log")
			t.Logf("%s's log:\n%s", d.name, log)
		}
	})
	if d.kernel != nil {
		command := d.kernel(dir)
		zebra := run.run(t, r.self, command[0], command[1:]...)
		t.Cleanup(func() { end(zebra) })
		require.Eventually(t, func() bool {
			_, err := os.Stat(dir + "/zebra")
			return err == nil
		}, patience, 10*time.Millisecond, "the socket of what programs %s's routes", d.name)
	}
	run.launch(t, r.self)
	t.Cleanup(func() {
		if t.Failed() {
			sessions, _ := run.says(d.sessions)
			t.Logf("%s's sessions:\n%s", d.name, sessions)
		}
		run.kill()
	})
	return run
}

func (r *running) launch(t testing.TB, n *testnet.Node) {
	t.Helper()
	r.cmd = r.run(t, n, r.binary, r.args(r.dir)...)
}

// run starts a program that says to the log what it does.
func (r *running) run(t testing.TB, n *testnet.Node, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := n.Command(context.WithoutCancel(t.Context()), name, args...)
	log, err := os.OpenFile(filepath.Join(r.dir, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	require.NoError(t, log.Close())
	return cmd
}

// says is the daemon's answer.
func (r *running) says(questions ...string) (string, error) {
	out, err := r.ask(r.dir, questions...).CombinedOutput()
	return string(out), err
}

func (r *running) kill() { end(r.cmd) }

// end kills a program, and returns when it is gone.
func end(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(syscall.SIGKILL)
	_ = cmd.Wait()
}

// wait waits until what the daemon shows will do.
func (r *running) wait(t testing.TB, what string, enough func(shown string) bool) {
	t.Helper()
	var last string
	until := time.Now().Add(patience)
	for time.Now().Before(until) {
		last, _ = r.says(r.all...)
		if enough(last) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	require.Fail(t, "waited in vain for "+what, "%s shows:\n%s", r.name, last)
}

func shows(prefixes ...netip.Prefix) func(string) bool {
	return func(shown string) bool {
		for _, p := range prefixes {
			if !strings.Contains(shown, p.String()) {
				return false
			}
		}
		return true
	}
}

func showsNot(p netip.Prefix) func(string) bool {
	return func(shown string) bool { return !strings.Contains(shown, p.String()) }
}

// withEach runs the test against each program, on a fabric of its own.
func withEach(t *testing.T, nodes int, test func(t *testing.T, d daemon, f *testnet.Fabric)) {
	t.Parallel()
	for _, d := range daemons {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			with(t, d, nodes, test)
		})
	}
}

// with runs the test against the program, on a fabric of its own.
func with(t *testing.T, d daemon, nodes int, test func(t *testing.T, d daemon, f *testnet.Fabric)) {
	t.Helper()
	if _, err := os.Stat(d.binary); err != nil {
		if os.Getenv(requirePeersVar) == "1" {
			require.NoError(t, err, requirePeersVar+" is set")
		}
		t.Skipf("%s is not installed: apt install bird2 frr", d.binary)
	}
	test(t, d, racks(t, nodes))
}

// A member of the mesh that is another program: paths both ways in both families, signed, and what either withdraws goes; the
// session is lost and comes back.
func TestInteropMeshMember(t *testing.T) {
	withEach(t, 2, func(t *testing.T, d daemon, f *testnet.Fabric) {
		r := router{as: 64512, password: "woven", self: f.Nodes[1], neighbors: []neighbor{{f.Nodes[0].V4, 64512}}}
		other := d.start(t, r)
		a := startAgent(t, f.Nodes[0], configOf(t, f.Nodes[0]))
		p := sessionWith(f.Nodes[1])
		p.Password, p.Passive = "woven", true
		a.order(t, order{Peers: []bgp.Peer{p}, Advertise: blocks(1)})
		got := a.wait(t, "its blocks", knows(v4Block(2), v6Block(2)))
		for _, path := range got.Paths {
			assert.Contains(t, f.Nodes[1].Addrs(), path.NextHop, "of %s", path.Prefix)
		}
		other.wait(t, "our blocks", shows(v4Block(1), v6Block(1)))
		programmed(t, f.Nodes[1])
		showsMark(t, other, a, p)

		for own := range blocks(1) { // of either family
			gone, stays := blocks(1)[own], blocks(1)[1-own]
			w := withdrawal{
				prefix: gone.Prefix, nodes: f.Nodes[1:],
				withdraw: func() { a.order(t, order{Peers: []bgp.Peer{p}, Advertise: []bgp.Advertisement{stays}}) },
				announce: func() { a.order(t, order{Peers: []bgp.Peer{p}, Advertise: blocks(1)}) },
			}
			w.requireAtOnce(t)
			assert.True(t, kernelHas(t, handle(t, f.Nodes[1]), stays.Prefix), "%s stays", stays.Prefix)
			other.wait(t, "the withdrawal", showsNot(gone.Prefix))
			w.announce()
			other.wait(t, "the block again", shows(gone.Prefix))
			programmed(t, f.Nodes[1])
		}
		other.withdrawal(t, r, v4Block(2), f.Nodes[0]).requireAtOnce(t)
		a.wait(t, "the withdrawal", knowsNot(v4Block(2)))
		require.True(t, knows(v6Block(2))(a.ask(t, nil)), "the other block stays")
		other.withdrawal(t, r, v6Block(2), f.Nodes[0]).requireAtOnce(t)
		a.wait(t, "the withdrawal", knowsNot(v6Block(2)))

		other.kill()
		a.wait(t, "the loss of the session", func(a answer) bool { return a.Established == 0 })
		other.launch(t, f.Nodes[1])
		a.wait(t, "the session again", func(a answer) bool { return a.Established == 1 })
		other.wait(t, "our blocks again", shows(v4Block(1), v6Block(1)))
		a.wait(t, "its blocks again", func(a answer) bool {
			fresh := 0
			for _, p := range a.Paths {
				if !p.Stale {
					fresh++
				}
			}
			return fresh == 2
		})
	})
}

// showsMark has the agent put a community on its blocks, which the daemon sees, and take it off again.
func showsMark(t *testing.T, other *running, a *agent, p bgp.Peer) {
	t.Helper()
	marked := blocks(1)
	for i := range marked {
		marked[i].Communities = []bgp.Community{64512<<16 | 7}
	}
	a.order(t, order{Peers: []bgp.Peer{p}, Advertise: marked})
	seen := func(want bool) func(string) bool {
		return func(string) bool {
			for _, question := range []string{fmt.Sprintf(other.offered, v4Block(1)), fmt.Sprintf(other.offeredV6, v6Block(1))} {
				said, err := other.says(question)
				colons := strings.ReplaceAll(said, ",", ":") // BIRD writes (64512,7)
				if err != nil || strings.Contains(colons, "64512:7") != want {
					return false
				}
			}
			return true
		}
	}
	other.wait(t, "the community", seen(true))
	a.order(t, order{Peers: []bgp.Peer{p}, Advertise: blocks(1)})
	other.wait(t, "the end of the community", seen(false))
}

// Another program as the reflector between two of our nodes, which have no session with each other.
func TestInteropReflector(t *testing.T) {
	withEach(t, 3, func(t *testing.T, d daemon, f *testnet.Fabric) {
		between(t, f, d, router{as: 64512, reflects: true}, [2]uint32{64512, 64512})
	})
}

// Another program as the switch at the top of the rack, an AS of its own.
func TestInteropTopOfRack(t *testing.T) {
	withEach(t, 3, func(t *testing.T, d daemon, f *testnet.Fabric) {
		between(t, f, d, router{as: 4200000000}, [2]uint32{64513, 64514})
	})
}

// Another program on the link that knows us as another AS, and takes nothing from farther away, nor do we.
func TestInteropLocalAS(t *testing.T) {
	withEach(t, 2, func(t *testing.T, d daemon, f *testnet.Fabric) {
		r := router{as: 64600, near: true, self: f.Nodes[1], neighbors: []neighbor{{f.Nodes[0].V4, 64999}}}
		other := d.start(t, r)
		a := startAgent(t, f.Nodes[0], configOf(t, f.Nodes[0]))
		p := sessionWith(f.Nodes[1])
		p.AS, p.LocalAS, p.TTLSecurity, p.Passive = r.as, 64999, 1, true
		a.order(t, order{Peers: []bgp.Peer{p}, Advertise: blocks(1)})
		a.wait(t, "its blocks", knows(v4Block(2), v6Block(2)))
		other.wait(t, "our blocks", shows(v4Block(1), v6Block(1)))
		other.wait(t, "our AS", func(string) bool {
			said, err := other.says(fmt.Sprintf(other.offered, v4Block(1)))
			return err == nil && strings.Contains(said, "64999") && !strings.Contains(said, "64512")
		})
	})
}

// ends are agents in nodes 1 and 3, each with a session with the router between them.
type ends struct {
	router *running
	agents [2]*agent
	cfgs   [2]bgp.Config
	orders [2]order
}

// newEnds starts the router, at node 2, and the agents, and returns when everybody knows everything and packets get through.
func newEnds(t *testing.T, f *testnet.Fabric, d daemon, r *router, as [2]uint32) *ends {
	t.Helper()
	r.self = f.Nodes[1]
	r.neighbors = []neighbor{{f.Nodes[0].V4, as[0]}, {f.Nodes[2].V4, as[1]}}
	e := &ends{router: d.start(t, *r)}
	for k, i := range []int{1, 3} {
		e.cfgs[k] = configOf(t, f.Nodes[i-1])
		e.cfgs[k].AS = as[k]
		p := sessionWith(f.Nodes[1])
		p.AS, p.Passive = r.as, true
		e.orders[k] = order{Peers: []bgp.Peer{p}, Advertise: blocks(i)}
		e.agents[k] = startAgent(t, f.Nodes[i-1], e.cfgs[k])
		e.agents[k].order(t, e.orders[k])
	}
	e.agents[0].wait(t, "the other node's blocks", knows(v4Block(3), v6Block(3), v4Block(2), v6Block(2)))
	e.agents[1].wait(t, "the other node's blocks", knows(v4Block(1), v6Block(1), v4Block(2), v6Block(2)))
	e.router.wait(t, "all blocks", shows(v4Block(1), v4Block(3), v6Block(1), v6Block(3)))
	reach(t, f, 1, 3)
	return e
}

// between puts the router between two agents: what goes, and sessions that are lost.
func between(t *testing.T, f *testnet.Fabric, d daemon, r router, as [2]uint32) {
	t.Helper()
	e := newEnds(t, f, d, &r, as)

	// What goes at one end is gone at the other, by way of the router, and so is what was its own.
	for own := range blocks(1) { // of either family
		gone, less := blocks(1)[own].Prefix, e.orders[0]
		less.Advertise = blocks(1)[1-own : 2-own]
		w := withdrawal{
			prefix: gone, nodes: []*testnet.Node{f.Nodes[1], f.Nodes[2]},
			withdraw: func() { e.agents[0].order(t, less) }, announce: func() { e.agents[0].order(t, e.orders[0]) },
		}
		w.requireAtOnce(t)
		e.agents[1].wait(t, "the withdrawal", knowsNot(gone))
		w.announce()
		e.agents[1].wait(t, "the block again", knows(v4Block(1), v6Block(1)))
	}
	programmed(t, f.Nodes[1])
	for _, own := range blocks(2) {
		e.router.withdrawal(t, r, own.Prefix, f.Nodes[0], f.Nodes[2]).requireAtOnce(t)
		for _, a := range e.agents {
			a.wait(t, "the withdrawal", knowsNot(own.Prefix))
		}
	}

	// The sessions are lost, and come back with all that there was.
	e.router.kill()
	for _, a := range e.agents {
		a.wait(t, "the loss of the session", func(a answer) bool { return a.Established == 0 })
	}
	e.router.launch(t, r.self)
	for k, a := range e.agents {
		far := 3 - 2*k
		a.wait(t, "the session and fresh paths again", backWith(v4Block(far), v6Block(far), v4Block(2), v6Block(2)))
	}
	reach(t, f, 1, 3)
}

// backWith reports whether the agent has its one session again, and has heard of just these prefixes there.
func backWith(prefixes ...netip.Prefix) func(answer) bool {
	return func(a answer) bool {
		stale := slices.ContainsFunc(a.Paths, func(p bgp.Path) bool { return p.Stale })
		return a.Established == 1 && !stale && len(a.Paths) == len(prefixes) && knows(prefixes...)(a)
	}
}

// withdrawal is the end of a prefix in the kernels of some nodes.
type withdrawal struct {
	prefix             netip.Prefix
	nodes              []*testnet.Node
	withdraw, announce func()
}

// withdrawal is that of one of the daemon's own blocks.
func (r *running) withdrawal(t testing.TB, as router, own netip.Prefix, nodes ...*testnet.Node) withdrawal {
	tell := func(questions []string) {
		t.Helper()
		said, err := r.says(questions...)
		require.NoError(t, err, said)
	}
	return withdrawal{
		prefix: own, nodes: nodes,
		withdraw: func() { tell(r.withdraws(as, own)) }, announce: func() { tell(r.announces(as, own)) },
	}
}

// requireAtOnce requires that it takes at most sabotage.Limit, a second, from before the word until the last kernel has no route. A busy
// machine is late now and then, so one time of three will do.
func (w withdrawal) requireAtOnce(t testing.TB) {
	t.Helper()
	const times = 3
	var took time.Duration
	for range times {
		w.wait(t, true)
		watch := sabotage.Start(t, w.nodes[0])
		w.withdraw()
		w.wait(t, false)
		took = watch.Stop()
		t.Logf("%s was gone after %s that count", w.prefix, took)
		if took <= sabotage.Limit() {
			return
		}
		w.announce()
	}
	require.LessOrEqual(t, took, sabotage.Limit(), "%s was late %d times", w.prefix, times)
}

// wait waits until all of the kernels have a route to the prefix, or none.
func (w withdrawal) wait(t testing.TB, there bool) {
	t.Helper()
	begun := time.Now()
	for _, n := range w.nodes {
		for h := handle(t, n); kernelHas(t, h, w.prefix) != there; time.Sleep(10 * time.Millisecond) {
			require.Less(t, time.Since(begun), patience, "%s in the kernel of %s is still %t", w.prefix, n.Name, !there)
		}
	}
}

// programmed waits until the node's kernel has routes to our blocks.
func programmed(t testing.TB, n *testnet.Node) {
	t.Helper()
	begun := time.Now()
	for h := handle(t, n); !kernelHas(t, h, v4Block(1), v6Block(1)); time.Sleep(10 * time.Millisecond) {
		require.Less(t, time.Since(begun), patience, "our blocks are not in the kernel of %s", n.Name)
	}
}

// kernelHas reports whether there are routes to all of the prefixes.
func kernelHas(t testing.TB, h *netlink.Handle, prefixes ...netip.Prefix) bool {
	t.Helper()
	list, err := h.RouteListFiltered(unix.AF_UNSPEC, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	require.NoError(t, err)
	for _, p := range prefixes {
		if !slices.ContainsFunc(list, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.String() == p.String() }) {
			return false
		}
	}
	return true
}

// Nodes of one mesh, each with a session with the switch too: the switch hears of a block from its node only. If another node is to
// pass it on, it is with that node's next hop or its own, as it is told.
func TestInteropTransit(t *testing.T) {
	withEach(t, 3, func(t *testing.T, d daemon, f *testnet.Fabric) {
		one, three := f.Nodes[0], f.Nodes[2]
		r := router{as: 4200000000, self: f.Nodes[1], neighbors: []neighbor{{one.V4, 64512}, {three.V4, 64512}}}
		other := d.start(t, r)
		tor := sessionWith(f.Nodes[1])
		tor.AS, tor.Passive = r.as, true
		two := startAgent(t, three, configOf(t, three))
		two.order(t, order{Peers: []bgp.Peer{sessionWith(one), tor}, Advertise: blocks(3)})
		a := startAgent(t, one, configOf(t, one))
		tell := func(transit bgp.Transit, ads []bgp.Advertisement) {
			t.Helper()
			tor.Transit = transit
			a.order(t, order{Peers: []bgp.Peer{sessionWith(three), tor}, Advertise: ads})
		}
		hear := func(v4, v6 map[netip.Addr]string) {
			t.Helper()
			other.wait(t, fmt.Sprintf("%v and %v", v4, v6), func(string) bool {
				for question, want := range map[string]map[netip.Addr]string{
					fmt.Sprintf(d.offered, v4Block(3)): v4, fmt.Sprintf(d.offeredV6, v6Block(3)): v6,
				} {
					said, _ := other.says(question)
					if !maps.Equal(want, d.offers(r, said)) {
						return false
					}
				}
				return true
			})
		}
		type hops = map[netip.Addr]string // next hops by who told of them
		fromItself := [2]hops{{three.V4: three.V4.String()}, {three.V4: three.V6.String()}}
		tell("", nil)
		a.wait(t, "the other node's blocks", knows(v4Block(3), v6Block(3)))
		a.wait(t, "both sessions", func(a answer) bool { return a.Established == 2 })
		tell("", blocks(1)) // behind what would have been passed on
		other.wait(t, "all blocks", shows(v4Block(1), v6Block(1), v4Block(3), v6Block(3)))
		hear(fromItself[0], fromItself[1])

		tell(bgp.NextHopKept, blocks(1))
		hear(hops{three.V4: three.V4.String(), one.V4: three.V4.String()}, hops{three.V4: three.V6.String(), one.V4: three.V6.String()})
		tell(bgp.NextHopSelf, blocks(1))
		hear(hops{three.V4: three.V4.String(), one.V4: one.V4.String()}, hops{three.V4: three.V6.String(), one.V4: one.V6.String()})
		tell(bgp.OwnOnly, blocks(1))
		hear(fromItself[0], fromItself[1])
	})
}

// An agent killed and started again under the eyes of another program, which keeps its routes, in its table and in the kernel's: it has
// no others, so packets tell.
func TestInteropGracefulRestart(t *testing.T) {
	withEach(t, 2, func(t *testing.T, d daemon, f *testnet.Fabric) {
		restart(t, d, f, over4, func(*running) {})
	})
}

// The same where the session is over IPv6, which carries both families too.
func TestInteropIPv6Session(t *testing.T) {
	withEach(t, 2, func(t *testing.T, d daemon, f *testnet.Fabric) {
		restart(t, d, f, over6, func(*running) {})
	})
}

// An agent that is back when the other program has dialled in vain, and dials no more: FRR waits for who restarts to dial, and
// sweeps the routes two minutes after the session broke. See latecomers.
func TestInteropLateRestart(t *testing.T) {
	t.Parallel()
	with(t, frr, 2, func(t *testing.T, d daemon, f *testnet.Fabric) {
		restart(t, d, f, over4, func(other *running) {
			other.wait(t, "the end of its dialing", func(string) bool {
				shown, _ := other.says("show bgp neighbors")
				return strings.Contains(shown, "BGP state = Active (NSF passive)")
			})
		})
	})
}

// An agent killed and started again behind a reflector: nobody loses a packet, the node at the reflector's other side neither.
func TestInteropGracefulRestartByReflector(t *testing.T) {
	withEach(t, 3, func(t *testing.T, d daemon, f *testnet.Fabric) {
		restartEnd(t, f, d, router{as: 64512, reflects: true}, [2]uint32{64512, 64512}, 0)
	})
}

// The same where the agent knows its peers for a while before it knows its blocks: they must not hear that it has none.
func TestInteropGracefulRestartToldLate(t *testing.T) {
	withEach(t, 3, func(t *testing.T, d daemon, f *testnet.Fabric) {
		restartEnd(t, f, d, router{as: 64512, reflects: true}, [2]uint32{64512, 64512}, 2*time.Second)
	})
}

// The same behind the switch at the top of the rack.
func TestInteropGracefulRestartByTopOfRack(t *testing.T) {
	withEach(t, 3, func(t *testing.T, d daemon, f *testnet.Fabric) {
		restartEnd(t, f, d, router{as: 4200000000}, [2]uint32{64513, 64514}, 0)
	})
}

// over4 and over6 are where a node has its session.
func over4(n *testnet.Node) netip.Addr { return n.V4 }
func over6(n *testnet.Node) netip.Addr { return n.V6 }

// restart kills the agent of node 1, and starts it again after meanwhile; the router at node 2 must not notice.
func restart(t *testing.T, d daemon, f *testnet.Fabric, over func(*testnet.Node) netip.Addr, meanwhile func(other *running)) {
	t.Helper()
	other := d.start(t, router{as: 64512, self: f.Nodes[1], neighbors: []neighbor{{over(f.Nodes[0]), 64512}}})
	cfg := configOf(t, f.Nodes[0])
	p := sessionWith(f.Nodes[1])
	p.Addr, p.Passive = over(f.Nodes[1]), true // the other dials; see Peer.Passive
	want := order{Peers: []bgp.Peer{p}, Advertise: blocks(1)}
	a := startAgent(t, f.Nodes[0], cfg)
	a.order(t, want)
	a.wait(t, "its blocks", knows(v4Block(2), v6Block(2)))
	other.wait(t, "our blocks", shows(v4Block(1), v6Block(1)))
	programmed(t, f.Nodes[1])
	reach(t, f, 2, 1)
	hasNoted(t, cfg, v4Block(2), v6Block(2))
	stop := storms(t, f, [2]int{2, 1}, [2]int{1, 2})
	a.kill(t)
	meanwhile(other)
	a = startAgent(t, f.Nodes[0], cfg)
	a.order(t, want)
	kernel := handle(t, f.Nodes[1])
	for done := false; !done; {
		require.True(t, kernelHas(t, kernel, v4Block(1), v6Block(1)), "the kernel's routes must stay")
		shown, err := other.says(other.all...)
		require.NoError(t, err, shown)
		require.True(t, shows(v4Block(1), v6Block(1))(shown), "%s", shown)
		now := a.ask(t, nil)
		require.True(t, len(now.Paths) == 0 || knows(v4Block(2), v6Block(2))(now), "%+v", now)
		done = backWith(v4Block(2), v6Block(2))(now)
		time.Sleep(20 * time.Millisecond)
	}
	time.Sleep(time.Second) // stale routes would go now
	shown, err := other.says(other.all...)
	require.NoError(t, err, shown)
	require.True(t, shows(v4Block(1), v6Block(1))(shown), "%s", shown)
	require.True(t, kernelHas(t, kernel, v4Block(1), v6Block(1)), "the kernel's routes must stay")
	stop()
}

// restartEnd kills the agent of node 1, and starts it again; neither the router at node 2 nor node 3 behind it must notice. The
// agent is told what to advertise later than who its peers are, where late is not zero.
func restartEnd(t *testing.T, f *testnet.Fabric, d daemon, r router, as [2]uint32, late time.Duration) {
	t.Helper()
	e := newEnds(t, f, d, &r, as)
	programmed(t, f.Nodes[1])
	reach(t, f, 2, 1)
	hasNoted(t, e.cfgs[0], v4Block(2), v6Block(2), v4Block(3), v6Block(3))
	stop := storms(t, f, [2]int{3, 1}, [2]int{1, 3}, [2]int{2, 1})
	e.agents[0].kill(t)
	a := startAgent(t, f.Nodes[0], e.cfgs[0])
	if late > 0 {
		a.order(t, order{Peers: e.orders[0].Peers, PeersOnly: true})
	}
	for begun := time.Now(); time.Since(begun) < late; time.Sleep(20 * time.Millisecond) {
		require.Zero(t, a.ask(t, nil).Established, "before it was told what to advertise")
	}
	a.order(t, e.orders[0])
	kernels := []*netlink.Handle{handle(t, f.Nodes[1]), handle(t, f.Nodes[2])}
	begun := time.Now()
	var back time.Time
	for back.IsZero() || time.Since(back) < time.Second { // stale routes would go then
		for _, h := range kernels {
			require.True(t, kernelHas(t, h, v4Block(1), v6Block(1)), "the kernels' routes must stay")
		}
		if back.IsZero() && backWith(v4Block(3), v6Block(3), v4Block(2), v6Block(2))(a.ask(t, nil)) {
			back = time.Now()
		}
		require.Less(t, time.Since(begun), patience)
		time.Sleep(20 * time.Millisecond)
	}
	stop()
}
