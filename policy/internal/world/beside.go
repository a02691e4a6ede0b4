package world

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/scenario"
	"github.com/podweft/podweft/testnet"
)

// other is a program that changes packets, or says what becomes of them, on a node whose policies we enforce.
type other struct {
	name  string
	steps []step // in their order, and once more when it loads its rules anew
}

// step is a call of a program, or of a function where there is none. Text for it stands for IPv4, and is given once more for IPv6 with what iptables and its rules call
// differently there.
type step struct {
	command string
	text    string
	once    bool   // it is for both families as it stands
	at      string // the one node that does so; empty: all
	call    func(testing.TB, *Node)
}

// others have in common that a Service, 10.96.0.10 and fd00:96::10, leads to the Village's web: its port 8080 to 80, which
// clients may call, and 8081 to 81, which nobody may.
func others() []other {
	nft := func(text string) step { return step{command: "nft -f -", text: text, once: true} }
	restore := func(variant, text string) step {
		return step{command: "iptables-" + variant + "-restore --noflush", text: text}
	}
	at := func(node string, s step) step {
		s.at = node
		return s
	}
	byNFT := []step{nft(nftServices), at("node-1", nft(nftMasquerade))}
	by := func(variant string, firewall ...string) []step {
		list := []step{restore(variant, iptablesServices), at("node-1", restore(variant, iptablesMasquerade))}
		for _, text := range firewall {
			list = append(list, restore(variant, text))
		}
		return list
	}
	return []other{
		{"kube-proxy by iptables-nft", by("nft")},
		{"kube-proxy by iptables-legacy", by("legacy")},
		{"kube-proxy by nftables", byNFT},
		{"Docker", by("nft", iptablesDocker)},
		{"firewalld by nftables", append(byNFT, nft(nftFirewall))},
		{"firewalld by iptables-nft", by("nft", iptablesFirewall)},
		{"firewalld by iptables-legacy", by("legacy", iptablesFirewall)},
	}
}

// iptablesServices are a Service as kube-proxy has it: KUBE-SERVICES, a chain for the Service and one for where it leads. Loading it
// again flushes the chains and fills them in one transaction, as kube-proxy does.
const iptablesServices = `*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-SEP-A - [0:0]
:KUBE-SVC-B - [0:0]
:KUBE-SEP-B - [0:0]
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-F PREROUTING
-F OUTPUT
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -d SERVICE -p tcp -m tcp --dport 8080 -j KUBE-SVC-A
-A KUBE-SERVICES -d SERVICE -p tcp -m tcp --dport 8081 -j KUBE-SVC-B
-A KUBE-SVC-A -j KUBE-SEP-A
-A KUBE-SVC-B -j KUBE-SEP-B
-A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination WEB:80
-A KUBE-SEP-B -p tcp -m tcp -j DNAT --to-destination WEB:81
COMMIT
*filter
:KUBE-FORWARD - [0:0]
:FORWARD ACCEPT [0:0]
-A FORWARD -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
`

// iptablesMasquerade gives whatever goes to the pod another source on its own node: policies must have looked before that.
const iptablesMasquerade = `*nat
:POSTROUTING ACCEPT [0:0]
:KUBE-POSTROUTING - [0:0]
-F POSTROUTING
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -d WEB -j SNAT --to-source NODE
COMMIT
`

// iptablesDocker is what dockerd makes of FORWARD, with pods among those whom somebody has let pass.
const iptablesDocker = `*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:DOCKER-FORWARD - [0:0]
-F FORWARD
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-USER -j RETURN
-A DOCKER-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -s PODS -j ACCEPT
-A DOCKER-FORWARD -d PODS -j ACCEPT
COMMIT
`

// iptablesFirewall loads all of the filter table's chains anew, with an accept for whatever passes.
const iptablesFirewall = `*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:FORWARD_direct - [0:0]
:FWD_trusted - [0:0]
-F FORWARD
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -j FORWARD_direct
-A FORWARD -j FWD_trusted
-A FWD_trusted -s PODS -j ACCEPT
-A FWD_trusted -j ACCEPT
COMMIT
`

// nftServices is the same in the way of kube-proxy's nftables mode: maps from a Service to a chain.
const nftServices = `
table ip kube-proxy
delete table ip kube-proxy
table ip kube-proxy {
	map service-ips {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 10.96.0.10 . tcp . 8080 : goto service-a, 10.96.0.10 . tcp . 8081 : goto service-b }
	}
	chain service-a { meta l4proto tcp dnat to 10.244.1.10:80; }
	chain service-b { meta l4proto tcp dnat to 10.244.1.10:81; }
	chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
	chain nat-prerouting { type nat hook prerouting priority dstnat; policy accept; jump services; }
	chain nat-output { type nat hook output priority -100; policy accept; jump services; }
}
table ip6 kube-proxy
delete table ip6 kube-proxy
table ip6 kube-proxy {
	map service-ips {
		type ipv6_addr . inet_proto . inet_service : verdict
		elements = { fd00:96::10 . tcp . 8080 : goto service-a, fd00:96::10 . tcp . 8081 : goto service-b }
	}
	chain service-a { meta l4proto tcp dnat to [fd00::a]:80; }
	chain service-b { meta l4proto tcp dnat to [fd00::a]:81; }
	chain services { ip6 daddr . meta l4proto . th dport vmap @service-ips; }
	chain nat-prerouting { type nat hook prerouting priority dstnat; policy accept; jump services; }
	chain nat-output { type nat hook output priority -100; policy accept; jump services; }
}
`

// nftMasquerade is iptablesMasquerade's like.
const nftMasquerade = `
table inet masquerading
delete table inet masquerading
table inet masquerading {
	chain nat-postrouting { type nat hook postrouting priority srcnat; policy accept;
		ip daddr 10.244.1.10 snat to 192.0.2.1
		ip6 daddr fd00::a snat to 2001:db8::1
	}
}
`

// nftFirewall is firewalld's table, thrown away and made anew as when it reloads; it accepts before policies and behind them.
const nftFirewall = `
table inet firewalld
delete table inet firewalld
table inet firewalld {
	chain mangle_PREROUTING { type filter hook prerouting priority mangle + 10; policy accept; accept; }
	chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		accept
	}
	chain last { type filter hook postrouting priority 300; policy accept; accept; }
}
`

// forIPv6 writes the text of a step for the other family.
func (s step) forIPv6() step {
	s.command = strings.Replace(s.command, "iptables", "ip6tables", 1)
	s.text = strings.NewReplacer("SERVICE -p", "fd00:96::10 -p", "WEB:", "[fd00::a]:", "WEB", "fd00::a", "NODE", "2001:db8::1", "PODS", "fd00::/64").Replace(s.text)
	return s
}

func (s step) forIPv4() step {
	s.text = strings.NewReplacer("SERVICE -p", "10.96.0.10 -p", "WEB", "10.244.1.10", "NODE", "192.0.2.1", "PODS", "10.244.0.0/16").Replace(s.text)
	return s
}

// BesideOthers sends packets while other programs do with them what they do: to Services, through firewalls that accept everything, and
// during these programs' reloads. Policies mean what they mean: they see where a Service's packets really go and where they
// really come from, whoever accepts them. Of every so many programs it takes one, as [Scenarios] does of scenarios.
func BesideOthers(t *testing.T, keep func(testing.TB, *testnet.Node) Keeper, first, every int) {
	// iptables' lock in /run is root's, and all of the machine wait for it; and ordinary users do not look where it is installed.
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock"))
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	for i, o := range others() {
		if i%every != first {
			continue
		}
		t.Run(o.name, func(t *testing.T) { beside(t, keep, o) })
	}
}

// BesideIPVS is the same beside kube-proxy's IPVS mode, which takes a kernel that has it.
func BesideIPVS(t *testing.T, keep func(testing.TB, *testnet.Node) Keeper) {
	if hasIPVS(t) {
		beside(t, keep, other{"kube-proxy by IPVS", []step{{call: byIPVS, once: true}}})
	}
}

func beside(t *testing.T, keep func(testing.TB, *testnet.Node) Keeper, o other) {
	w := New(t, keep, "node-1", "node-2")
	m := Village()
	m.Policies = append(m.Policies, policy.Policy{ // of the Service's address it says nothing: where its packets really go is what counts
		Namespace: "default", Name: "callers", Pods: policy.Selector{MatchExpressions: []policy.Requirement{
			{Key: "app", Operator: policy.In, Values: []string{"client", "other"}}}},
		Types:  []policy.Direction{policy.Egress},
		Egress: []policy.Rule{{Peers: []policy.Peer{{Pods: new(App("web"))}}, Ports: []policy.Port{{Number: 80}}}},
	})
	w.Enforce(m)
	direct := Cells(t, m, "client > web, node-1 > web tcp/81", "other > web, client > web tcp/81, node-2 > web")
	w.Settle(m, direct)
	w.Try(direct)
	w.run(o.steps)
	all := slices.Concat(direct, toService(t, m))
	w.Try(all)
	list := Cells(t, m, "client > web", "other > web")
	for range 3 {
		for _, s := range o.steps {
			w.run([]step{s})
			w.Round(list)
		}
	}
	w.Try(all)
	w.Enforce(m)
	w.Try(all)
}

// toService are connections to the Service, which Evaluate judges by where they lead.
func toService(t *testing.T, m policy.Model) (list []scenario.Cell) {
	t.Helper()
	rules, err := policy.Compile(m)
	must(t, err)
	sources := [][]netip.Addr{m.Pods[0].Addresses, m.Pods[1].Addresses, m.Pods[2].Addresses, m.Nodes[0].Addresses, m.Nodes[1].Addresses}
	for i, service := range []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:96::10")} {
		for port := range uint16(2) {
			for _, source := range sources {
				p := policy.Packet{Src: source[i], Dst: m.Pods[0].Addresses[i], Protocol: policy.TCP, Port: 80 + port}
				want, _ := rules.Evaluate(p)
				p.Dst, p.Port = service, 8080+port
				list = append(list, scenario.Cell{Text: "by the Service", Packet: p, Want: want})
			}
		}
	}
	return list
}

// run runs programs in the nodes.
func (w *World) run(steps []step) {
	w.T.Helper()
	for _, s := range steps {
		calls := []step{s}
		if !s.once {
			calls = []step{s.forIPv4(), s.forIPv6()}
		}
		for _, call := range calls {
			for name, n := range w.Nodes {
				if call.at == "" || call.at == name {
					n.run(w.T, call)
				}
			}
		}
	}
}

func (n *Node) run(t testing.TB, s step) {
	t.Helper()
	if s.call != nil {
		s.call(t, n)
		return
	}
	words := strings.Fields(s.command)
	if _, err := exec.LookPath(words[0]); err != nil {
		if os.Getenv("PODWEFT_REQUIRE_KERNEL") != "" {
			t.Fatalf("%s is not installed", words[0])
		}
		t.Skipf("%s is not installed", words[0])
	}
	cmd := n.Command(t.Context(), words[0], words[1:]...)
	cmd.Stdin = strings.NewReader(s.text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %s: %s", s.command, err, out)
	}
}
