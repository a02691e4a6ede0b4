package cniplugin_test

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/ipam"
	"github.com/podweft/podweft/testnet"
)

// connect opens a connection from the node.
func (n *node) connect(network, to string, wait time.Duration) (c net.Conn, err error) {
	err = n.ns.Do(func() (err error) {
		c, err = net.DialTimeout(network, to, wait)
		return err
	})
	return c, err
}

// silence is how long an answer is waited for that must not come.
const silence = time.Second

// who says which pod answers at an address of the node, "" if none.
func (n *node) who(to string, wait time.Duration) (string, error) {
	c, err := n.connect("tcp", to, wait)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return hear(c, wait)
}

// hear says which pod answers.
func hear(c net.Conn, wait time.Duration) (string, error) {
	buf := make([]byte, 100)
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return "", err
	}
	got, err := c.Read(buf)
	name, _, _ := strings.Cut(string(buf[:got]), " ")
	return name, err
}

// TestTakeOverOfRules changes the plugins of a node on which bridge masqueraded pods and portmap opened their host ports, with either
// kind of iptables. What they made goes with each pod, by DEL or by GC, and who gets its address is not reached by its ports.
func TestTakeOverOfRules(t *testing.T) {
	for _, kind := range []string{"nft", "legacy"} {
		t.Run(kind, func(t *testing.T) { takeOverRules(t, kind) })
	}
}

// iptables makes iptables, for the programs that the test starts, the one of that kind.
func iptables(t *testing.T, kind string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(dir, "lock")) // an ordinary user may not open the host's
	for _, name := range []string{"iptables", "ip6tables"} {
		program, err := exec.LookPath(name + "-" + kind)
		if err != nil && os.Getenv("PODWEFT_REQUIRE_KERNEL") != "1" {
			t.Skip(err)
		}
		require.NoError(t, err, "apt install iptables")
		require.NoError(t, os.Symlink(program, filepath.Join(dir, name)))
	}
}

// natRules are all of iptables' table nat.
func (n *node) natRules(t *testing.T) (text string) {
	t.Helper()
	for _, program := range []string{"iptables", "ip6tables"} {
		out, err := n.ns.Command(t.Context(), program, "-t", "nat", "-S").CombinedOutput()
		require.NoError(t, err, string(out))
		text += string(out)
	}
	return text
}

// with is a configuration with changes.
func with(conf, changes map[string]any) map[string]any {
	conf = maps.Clone(conf)
	maps.Copy(conf, changes)
	return conf
}

func takeOverRules(t *testing.T, kind string) {
	withReference(t)
	iptables(t, kind)
	n := newNode(t)
	theirs := map[string]any{
		"cniVersion": "1.0.0", "name": "pods", "type": "bridge", "bridge": "old0", "isDefaultGateway": true, "ipMasq": true,
		"ipam": map[string]any{"type": "host-local", "dataDir": filepath.Join(n.dir, "networks"), "ranges": [][]map[string]string{
			{{"subnet": "10.244.1.0/24"}}, {{"subnet": "fd00:244:0:1::/64"}},
		}},
	}
	ours := with(theirs, map[string]any{"cniVersion": "1.1.0", "type": "podweft-cni", "stateDir": n.dir, "ipMasq": false})
	names := []string{"chained", "alone", "collected", "stays"}
	pods, results, ports := map[string]*testnet.Node{}, map[string]map[string]any{}, map[string]map[string]any{}
	at := func(name string) []string {
		port := fmt.Sprint(8080 + slices.Index(names, name))
		return []string{"10.244.1.1:" + port, "[fd00:244:0:1::1]:" + port}
	}
	var flows []net.Conn
	for i, name := range names {
		pod := testnet.NewNode(t, name)
		sabotage.Serve(t, pod)
		ports[name] = map[string]any{"portMappings": []map[string]any{
			{"hostPort": 8080 + i, "containerPort": 80, "protocol": "tcp"}, {"hostPort": 8080 + i, "containerPort": 80, "protocol": "udp"},
		}}
		results[name] = map[string]any{"prevResult": n.callReference(t, "bridge", "ADD", pod, theirs)}
		pods[name] = pod
		n.callReference(t, "portmap", "ADD", pod, with(results[name], map[string]any{
			"cniVersion": "1.0.0", "name": "pods", "type": "portmap", "runtimeConfig": ports[name],
		}))
		for _, to := range at(name) {
			require.Eventually(t, func() bool { who, _ := n.who(to, silence); return who == name }, patience, 10*time.Millisecond, to)
		}
	}
	for _, to := range at("chained") {
		c, err := n.connect("udp", to, patience)
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		_, err = c.Write([]byte("who?"))
		require.NoError(t, err)
		who, err := hear(c, patience)
		require.NoError(t, err)
		require.Equal(t, "chained", who)
		flows = append(flows, c)
	}
	newcomer := testnet.NewNode(t, "newcomer")
	n.add(t, newcomer, ours)
	before := strings.Count(n.natRules(t), "\n")
	portmap := map[string]any{"cniVersion": "1.1.0", "name": "pods", "type": "portmap", "stateDir": n.dir, "runtimeConfig": ports["chained"]}
	r := n.call(t, "portmap", "DEL", with(portmap, results["chained"]), about(pods["chained"])...)
	require.Zero(t, r.code, r)
	assert.Contains(t, n.natRules(t), `id: \"chained\"`, "masquerading is not portmap's")
	for _, name := range []string{"chained", "alone"} {
		for range 2 { // runtimes call twice
			r = n.call(t, "podweft-cni", "DEL", ours, about(pods[name])...)
			require.Zero(t, r.code, r)
		}
	}
	r = n.call(t, "podweft-cni", "GC", with(ours, map[string]any{"cni.dev/valid-attachments": []any{
		map[string]any{"containerID": "stays", "ifname": "eth0"}, map[string]any{"containerID": "newcomer", "ifname": "eth0"},
	}}))
	require.Zero(t, r.code, r)

	files, err := filepath.Glob(filepath.Join(n.dir, "networks", "pods", "10.*"))
	require.NoError(t, err)
	assert.Equal(t, []string{filepath.Join(n.dir, "networks", "pods", "10.244.1.5")}, files, "host-local's of stays")

	left := n.natRules(t)
	for _, name := range names[:3] {
		assert.NotContains(t, left, `id: \"`+name+`\"`)
	}
	// Each pod had, in each family, two chains with 2 and 6 rules (5 in IPv6: its loopback is never masqueraded), and 3 rules to them.
	assert.Equal(t, before-3*(13+11), strings.Count(left, "\n"), left)
	for i, name := range names[:3] {
		heir := testnet.NewNode(t, "heir-of-"+name)
		ips := []string{fmt.Sprintf("10.244.1.%d", i+2), fmt.Sprintf("fd00:244:0:1::%d", i+2)}
		n.add(t, heir, with(ours, map[string]any{"runtimeConfig": map[string]any{"ips": ips}}))
		sabotage.Serve(t, heir)
		for _, to := range at(name) {
			_, err := n.who(to, patience)
			assert.ErrorIs(t, err, unix.ECONNREFUSED, to)
		}
	}
	for _, c := range flows {
		_, err := c.Write([]byte("who?"))
		require.NoError(t, err)
		_, err = hear(c, silence)
		assert.True(t, errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, os.ErrDeadlineExceeded), "%s: %v", c.RemoteAddr(), err)
	}
	for _, to := range at("stays") {
		who, err := n.who(to, patience)
		require.NoError(t, err)
		assert.Equal(t, "stays", who)
	}
	n.callReference(t, "portmap", "DEL", pods["stays"], with(results["stays"], map[string]any{
		"cniVersion": "1.0.0", "name": "pods", "type": "portmap", "runtimeConfig": ports["stays"],
	}))
}

// TestPortmapCollects: behind another plugin, which answers for addresses itself, our portmap's GC removes what the reference's has
// written for pods that are gone. Their masquerading goes with a GC of ours.
func TestPortmapCollects(t *testing.T) {
	for _, kind := range []string{"nft", "legacy"} {
		t.Run(kind, func(t *testing.T) {
			withReference(t)
			iptables(t, kind)
			n := newNode(t)
			conf := func(network, kind string, changes map[string]any) map[string]any {
				return with(map[string]any{"cniVersion": "1.0.0", "name": network, "type": kind}, changes)
			}
			for i, name := range []string{"dead", "stays", "stranger"} {
				network := []string{"pods", "pods", "others"}[i]
				pod := testnet.NewNode(t, name)
				at := map[string]any{"prevResult": n.callReference(t, "bridge", "ADD", pod, conf(network, "bridge", map[string]any{
					"bridge": "br-" + network, "isGateway": true, "ipMasq": true, "ipam": map[string]any{
						"type": "host-local", "dataDir": filepath.Join(n.dir, "networks"),
						"ranges": [][]map[string]string{{{"subnet": fmt.Sprintf("10.24%d.0.0/24", i/2)}}, {{"subnet": fmt.Sprintf("fd00:%d::/64", i/2)}}},
					},
				}))}
				at["runtimeConfig"] = map[string]any{"portMappings": []map[string]any{
					{"hostPort": 8080 + i, "containerPort": 80, "protocol": "tcp"}, {"hostPort": 8080 + i, "containerPort": 80, "protocol": "udp"},
				}}
				n.callReference(t, "portmap", "ADD", pod, conf(network, "portmap", at))
			}
			before := strings.Count(n.natRules(t), "\n")
			live := map[string]any{"cniVersion": "1.1.0", "stateDir": n.dir, "cni.dev/valid-attachments": []any{
				map[string]any{"containerID": "stays", "ifname": "eth0"},
			}}
			for range 2 {
				require.Zero(t, n.call(t, "portmap", "GC", conf("pods", "portmap", live)).code)
			}
			left := n.natRules(t)
			assert.NotContains(t, left, `"dnat name: \"pods\" id: \"dead\"`)
			for _, name := range []string{`"pods\" id: \"stays`, `"others\" id: \"stranger`} {
				assert.Contains(t, left, `"dnat name: \`+name)
			}
			assert.Contains(t, left, `"name: \"pods\" id: \"dead\"`, "masquerading is not portmap's")
			assert.Equal(t, before-(1+6+2)-(1+4+2), strings.Count(left, "\n"), left) // a chain, its rules, two that lead there
			require.Zero(t, n.call(t, "podweft-cni", "GC", conf("pods", "podweft-cni", live)).code)
			left = n.natRules(t)
			assert.NotContains(t, left, `id: \"dead\"`)
			for _, name := range []string{`"pods\" id: \"stays`, `"others\" id: \"stranger`} {
				assert.Contains(t, left, `"name: \`+name)
			}
		})
	}
}

// TestGCOfNFTables: a rule of the reference plugins is of a pod that is gone where it names the network, or where host-local does.
func TestGCOfNFTables(t *testing.T) {
	n := newNode(t)
	address := func(i byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, 1, i}) }
	n.hostLocal(t, "dead", "eth0", address(2))
	n.hostLocal(t, "two", "eth0", address(3)) // lives
	n.hostLocal(t, "two", "eth1", address(4))
	masquerading := func(id string) nft.Rule {
		return nft.Rule{
			Table: nft.Table{Family: nft.INet, Name: "cni_plugins_masquerade"}, Chain: "masq_checks", Comment: id,
			Exprs: []expr.Any{&expr.Counter{}},
		}
	}
	left := n.theirRules(t,
		theirRule("hostports", "dead", address(2)), theirRule("masquerading", "dead", address(2)), theirRule("hostports", "dead", address(9)),
		theirRule("hostports", "two", address(3)), theirRule("hostports", "two", address(4)), theirRule("hostports", "stranger", address(5)),
		// hash of podstwo; of both attachments
		nft.Rule{Table: nft.Table{Family: nft.IPv4, Name: "nat"}, Chain: "CNI-DN-24b2a26dd08fda0005237", Exprs: []expr.Any{&expr.Counter{}}},
		// hashes of pods or another name, and of eth0:two or others
		masquerading("aa9217ce5dd9862e-d750b2c8f0f25d5f, net: pods, if: eth0, id: two"), masquerading("aa9217ce5dd9862e-0000000000000000, net: pods"),
		masquerading("0000000000000000-0000000000000000, net: others"), masquerading(""),
	)
	conf := n.conf(map[string]any{
		"ipam":                      map[string]any{"dataDir": filepath.Join(n.dir, "networks")},
		"cni.dev/valid-attachments": []any{map[string]any{"containerID": "two", "ifname": "eth0"}},
	})
	require.Zero(t, n.call(t, "portmap", "GC", conf).code)
	rest := []string{
		"CNI-DN-24b2a26dd08fda0005237 ", "hostports dead", "hostports stranger", "hostports two", "masq_checks ",
		"masq_checks 0000000000000000-0000000000000000, net: others",
	}
	kept := "masq_checks aa9217ce5dd9862e-d750b2c8f0f25d5f, net: pods, if: eth0, id: two"
	assert.Equal(t, append(slices.Clone(rest), "masq_checks aa9217ce5dd9862e-0000000000000000, net: pods", kept), left())
	require.Zero(t, n.call(t, "podweft-cni", "GC", conf).code)
	assert.Equal(t, append(rest, kept), left())
}

// TestTakeOverOfNFTables: what the reference plugins write where they are told to use nftables is known by comments.
func TestTakeOverOfNFTables(t *testing.T) {
	n := newNode(t)
	conn, err := nft.Open(n.ns.NetNS())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	comments := map[nft.Chain][]string{
		{Table: nft.Table{Family: nft.IPv4, Name: "cni_hostport"}, Name: "hostports"}:        {"gone", "stays", "gone"},
		{Table: nft.Table{Family: nft.IPv6, Name: "cni_hostport"}, Name: "hostip_hostports"}: {"stays", "gone", ""},
		{Table: nft.Table{Family: nft.INet, Name: "cni_plugins_masquerade"}, Name: "masq_checks"}: { // hashes of pods, eth0:gone, eth0:stays
			"aa9217ce5dd9862e-6da90a6414599963, net: pods, if: eth0, id: gone", "aa9217ce5dd9862e-358d49d19f38c03f, net: pods, if: eth0, id: stays",
		},
	}
	var b nft.Batch
	for chain, all := range comments {
		b.AddTable(chain.Table, 0)
		b.AddChain(chain)
		for _, comment := range all {
			b.AddRule(nft.Rule{Table: chain.Table, Chain: chain.Name, Comment: comment, Exprs: []expr.Any{&expr.Counter{}}})
		}
	}
	require.NoError(t, conn.Commit(t.Context(), &b))
	rules := func() (count int) {
		for chain := range comments {
			all, err := conn.Rules(t.Context(), chain.Table)
			require.NoError(t, err)
			for _, r := range all {
				assert.NotEqual(t, "gone", r.Comment)
			}
			count += len(all)
		}
		return count
	}
	pod := testnet.NewNode(t, "gone")
	conf := n.conf(map[string]any{"runtimeConfig": aPort})
	require.Zero(t, n.call(t, "portmap", "DEL", conf, about(pod)...).code)
	assert.Equal(t, 5, rules())
	require.Zero(t, n.call(t, "podweft-cni", "DEL", conf, about(pod)...).code)
	assert.Equal(t, 4, rules())
}

var aPort = map[string]any{"portMappings": []any{map[string]any{"hostPort": 8080, "containerPort": 80}}}

// theirRule is a rule of a container's as the reference portmap writes it where it is told to use nftables, as far as we look at it.
func theirRule(chain, container string, to netip.Addr) nft.Rule {
	family := nft.IPv4
	if to.Is6() {
		family = nft.IPv6
	}
	r := nft.Rule{Table: nft.Table{Family: family, Name: "cni_hostport"}, Chain: chain, Comment: container}
	if chain == "masquerading" {
		r.Exprs = []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: uint32(to.BitLen() / 8)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: to.AsSlice()},
		}
	} else {
		r.Exprs = []expr.Any{&expr.Immediate{Register: 1, Data: to.AsSlice()}}
	}
	return r
}

// theirRules makes rules on the node; left are those that are there, each as "chain container".
func (n *node) theirRules(t *testing.T, rules ...nft.Rule) (left func() []string) {
	t.Helper()
	conn, err := nft.Open(n.ns.NetNS())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	var b nft.Batch
	tables := map[nft.Table]bool{}
	for _, r := range rules {
		tables[r.Table] = true
		b.AddTable(r.Table, 0)
		b.AddChain(nft.Chain{Table: r.Table, Name: r.Chain})
		b.AddRule(r)
	}
	require.NoError(t, conn.Commit(t.Context(), &b))
	return func() (left []string) {
		for table := range tables {
			all, err := conn.Rules(t.Context(), table)
			require.NoError(t, err)
			for _, r := range all {
				left = append(left, r.Chain+" "+r.Comment)
			}
		}
		slices.Sort(left)
		return left
	}
}

// TestTakeOverOfOneOfTwo: portmap's nftables rules name the container alone, which may have an attachment to another network: the rules
// of that one are told by its address. And what stands in other chains of the table is not portmap's.
func TestTakeOverOfOneOfTwo(t *testing.T) {
	four, six := netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00:244:0:1::7")
	four2, six2 := netip.MustParseAddr("10.9.0.7"), netip.MustParseAddr("fd00:9::7")
	prevResult := map[string]any{
		"cniVersion": "1.1.0", "interfaces": []any{map[string]any{"name": "eth0", "sandbox": "/nowhere"}},
		"ips": []any{map[string]any{"address": "10.244.1.7/24", "interface": 0}, map[string]any{"address": "fd00:244:0:1::7/64", "interface": 0}},
	}
	for _, tt := range []struct {
		name, kind string
		known      func(t *testing.T, n *node, conf map[string]any)
		want       []string
	}{
		{"by the result", "podweft-cni", func(_ *testing.T, _ *node, conf map[string]any) { conf["prevResult"] = prevResult }, []string{
			"hostports two", "hostports two", "masquerading two", "mine two",
		}},
		{"by the result, portmap alone", "portmap", func(_ *testing.T, _ *node, conf map[string]any) { conf["prevResult"] = prevResult }, []string{
			"hostports two", "hostports two", "masquerading two", "mine two",
		}},
		{"by host-local", "podweft-cni", func(t *testing.T, n *node, _ map[string]any) {
			n.hostLocal(t, "two", "eth0", four, six)
		}, []string{"hostports two", "hostports two", "masquerading two", "mine two"}},
		{"by our store", "podweft-cni", func(t *testing.T, n *node, conf map[string]any) {
			pool, err := ipam.Open(ipam.Config{Path: filepath.Join(n.dir, "ipam", "pods")})
			require.NoError(t, err)
			defer pool.Close()
			n.hostLocal(t, "two", "eth0", four, six)
			_, _, err = pool.ImportHostLocal(t.Context(), filepath.Join(n.dir, "networks", "pods"), "pods")
			require.NoError(t, err)
			require.NoError(t, os.RemoveAll(filepath.Join(n.dir, "networks")))
		}, []string{"hostports two", "hostports two", "masquerading two", "mine two"}},
		{"by nobody, with ports", "podweft-cni", func(_ *testing.T, _ *node, conf map[string]any) {
			conf["runtimeConfig"] = aPort
		}, []string{"mine two"}},
		{"by nobody", "podweft-cni", func(*testing.T, *node, map[string]any) {}, []string{
			"hostip_hostports two", "hostports two", "hostports two", "hostports two", "hostports two", "masquerading two", "masquerading two",
			"mine two",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			left := n.theirRules(t,
				theirRule("hostports", "two", four), theirRule("hostports", "two", six), theirRule("masquerading", "two", four),
				theirRule("hostip_hostports", "two", four),
				theirRule("hostports", "two", four2), theirRule("hostports", "two", six2), theirRule("masquerading", "two", four2),
				theirRule("mine", "two", four),
			)
			conf := n.conf(map[string]any{"ipam": map[string]any{"dataDir": filepath.Join(n.dir, "networks")}})
			tt.known(t, n, conf)
			pod := testnet.NewNode(t, "two")
			for range 2 { // runtimes call twice, the second time with less
				require.Zero(t, n.call(t, tt.kind, "DEL", conf, about(pod)...).code)
				assert.Equal(t, tt.want, left())
				delete(conf, "prevResult")
				delete(conf, "runtimeConfig")
			}
		})
	}
}

// hostLocal notes addresses of a container as host-local does.
func (n *node) hostLocal(t *testing.T, container, ifname string, addresses ...netip.Addr) {
	t.Helper()
	dir := filepath.Join(n.dir, "networks", "pods")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	for _, a := range addresses {
		require.NoError(t, os.WriteFile(filepath.Join(dir, a.String()), []byte(container+"\r\n"+ifname), 0o600))
	}
}

// TestTakeOverBesideOthers: several calls remove the rules of one pod at a time, and somebody else does too.
func TestTakeOverBesideOthers(t *testing.T) {
	n := newNode(t)
	pod := testnet.NewNode(t, "gone")
	other, err := nft.Open(n.ns.NetNS())
	require.NoError(t, err)
	t.Cleanup(func() { other.Close() })
	var rules []nft.Rule
	for i := range 100 {
		rules = append(rules, theirRule("hostports", []string{"gone", "stays"}[i%2], netip.AddrFrom4([4]byte{10, 244, 1, byte(i)})))
	}
	for range 20 {
		left := n.theirRules(t, rules...)
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() {
				r := n.call(t, "portmap", "DEL", n.conf(map[string]any{"runtimeConfig": aPort}), about(pod)...)
				assert.Zero(t, r.code, r)
			})
		}
		calls.Go(func() {
			all, err := other.Rules(t.Context(), rules[0].Table)
			assert.NoError(t, err)
			for _, r := range all {
				var b nft.Batch
				if b.DeleteRule(r); r.Comment == "gone" {
					_ = other.Commit(t.Context(), &b) // gone already, as like as not
				}
			}
		})
		calls.Wait()
		assert.NotContains(t, left(), "hostports gone")
		var b nft.Batch
		b.DeleteTable(rules[0].Table)
		require.NoError(t, other.Commit(t.Context(), &b))
	}
}

// TestTakeOverOfOtherSNAT: what the reference's portmap wrote goes with the pod also where it was to masquerade nobody, or by a chain of
// somebody else's, which stays.
func TestTakeOverOfOtherSNAT(t *testing.T) {
	for _, kind := range []string{"nft", "legacy"} {
		for field, value := range map[string]any{"snat": false, "externalSetMarkChain": "MARK-OF-OTHERS"} {
			t.Run(kind+" "+field, func(t *testing.T) {
				withReference(t)
				iptables(t, kind)
				n := newNode(t)
				for _, program := range []string{"iptables", "ip6tables"} {
					out, err := n.ns.Command(t.Context(), program, "-t", "nat", "-N", "MARK-OF-OTHERS").CombinedOutput()
					require.NoError(t, err, string(out))
				}
				pod := testnet.NewNode(t, "pod")
				conf := map[string]any{
					"cniVersion": "1.0.0", "name": "pods", "type": "portmap", field: value, "runtimeConfig": withPort(8080)["runtimeConfig"],
					"prevResult": result(n.add(t, pod, n.conf(map[string]any{"cniVersion": "1.0.0"}))),
				}
				n.callReference(t, "portmap", "ADD", pod, conf)
				require.Contains(t, n.natRules(t), "CNI-DN-")
				r := n.call(t, "portmap", "DEL", with(conf, map[string]any{"stateDir": n.dir + "/portmap"}), about(pod)...)
				require.Zero(t, r.code, r)
				left := n.natRules(t)
				assert.NotContains(t, left, "CNI-DN-")
				assert.Equal(t, 2, strings.Count(left, "-N MARK-OF-OTHERS"))
			})
		}
	}
}
