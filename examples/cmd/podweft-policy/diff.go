package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/podweft/podweft/policy"
)

// diff lists the connections that one set of files allows and the other does not: between all pods, and between pods and the addresses
// outside that policies tell apart, on each run of ports that policies or pods tell apart.
func (p *program) diff(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("diff needs OLD and NEW: %w", errUsage)
	}
	var models [2]policy.Model
	var compiled [2]*policy.Ruleset
	for i, arg := range args {
		names, err := expand(arg)
		if err != nil {
			return err
		}
		if models[i], err = p.model(names); err != nil {
			return err
		}
		if compiled[i], err = policy.Compile(models[i]); err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
	}
	ends, all := endsOf(models[:]), portsOf(models[:])
	changed := false
	for _, from := range ends {
		for _, to := range ends {
			if from.addr.Is4() != to.addr.Is4() || !from.pod && !to.pod {
				continue
			}
			for _, d := range differences(compiled, from.addr, to.addr, all) {
				changed = true
				p.printf("%s %s -> %s %s: %s\n", d.sign, from.name, to.name, portsText(d.ports, all), d.why)
			}
		}
	}
	if changed {
		return errProblem
	}
	p.printf("no connection changes\n")
	return nil
}

// difference is ports on which a connection is allowed in one set of files only, for one reason.
type difference struct {
	sign, why string
	ports     []ports
}

func differences(compiled [2]*policy.Ruleset, from, to netip.Addr, all []ports) (list []difference) {
	for _, run := range all {
		packet := policy.Packet{Src: from, Dst: to, Protocol: run.protocol, Port: run.first}
		before, _ := compiled[0].Evaluate(packet)
		after, why := compiled[1].Evaluate(packet)
		if before == after {
			continue
		}
		sign, reason := map[policy.Verdict]string{policy.Allowed: "+", policy.Denied: "-"}[after], deciding(why).String()
		same := slices.IndexFunc(list, func(d difference) bool { return d.sign == sign && d.why == reason })
		if same < 0 {
			same, list = len(list), append(list, difference{sign: sign, why: reason})
		}
		list[same].ports = append(list[same].ports, run)
	}
	return list
}

// expand returns the YAML files of a directory, or the file itself.
func expand(name string) ([]string, error) {
	info, err := os.Stat(name)
	if err != nil || !info.IsDir() {
		return []string{name}, nil // reading it says what is wrong
	}
	var files []string
	err = filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
		if ext := filepath.Ext(path); err == nil && !d.IsDir() && (ext == ".yaml" || ext == ".yml" || ext == ".json") {
			files = append(files, path)
		}
		return err
	})
	if err == nil && len(files) == 0 {
		err = errors.New(name + " has no .yaml, .yml or .json file")
	}
	return files, err
}

// deciding is the end that decided: the one that denies, or the one that a rule speaks for.
func deciding(why policy.Why) policy.Decision {
	if why.Egress.Verdict == policy.Denied || why.Ingress.Verdict == policy.Allowed && why.Egress.Reason == policy.ByRule {
		return why.Egress
	}
	return why.Ingress
}

// end is an end of a connection.
type end struct {
	name string
	addr netip.Addr
	pod  bool
}

// endsOf returns the pods of both models that have addresses, and one address of each range outside that no policy tells apart.
func endsOf(models []policy.Model) []end {
	taken := map[netip.Addr]bool{}
	var ends []end
	for _, m := range models {
		for _, pod := range m.Pods {
			for _, a := range pod.Addresses {
				if !taken[a] {
					ends = append(ends, end{fmt.Sprintf("%s/%s (%s)", pod.Namespace, pod.Name, a), a, true})
				}
				taken[a] = true
			}
		}
		for _, n := range m.Nodes {
			for _, a := range n.Addresses {
				taken[a] = true // whether it is a pod's own counts there, and no policy
			}
		}
	}
	for _, r := range outside(models) {
		a := r[0]
		for taken[a] && a != r[1] {
			a = a.Next()
		}
		if !taken[a] {
			ends = append(ends, end{name: rangeText(r), addr: a})
		}
	}
	slices.SortFunc(ends, func(a, b end) int { return cmp.Or(strings.Compare(a.name, b.name), a.addr.Compare(b.addr)) })
	return ends
}

// outside are all addresses of both families, cut wherever a block or a hole in one begins or ends.
func outside(models []policy.Model) (ranges [][2]netip.Addr) {
	for _, whole := range []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")} {
		cuts := map[netip.Addr]bool{whole.Addr(): true}
		for _, m := range models {
			for _, prefix := range blocks(m) {
				if !prefix.IsValid() || prefix.Addr().BitLen() != whole.Addr().BitLen() {
					continue
				}
				cuts[prefix.Masked().Addr()] = true
				if after := lastOf(prefix).Next(); after.IsValid() {
					cuts[after] = true
				}
			}
		}
		begins := slices.SortedFunc(maps.Keys(cuts), netip.Addr.Compare)
		for i, begin := range begins {
			end := lastOf(whole)
			if i+1 < len(begins) {
				end = begins[i+1].Prev()
			}
			ranges = append(ranges, [2]netip.Addr{begin, end})
		}
	}
	return ranges
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// rangeText is a range as a prefix if it is one.
func rangeText(r [2]netip.Addr) string {
	for bits := range r[0].BitLen() + 1 {
		if p := netip.PrefixFrom(r[0], bits); p == p.Masked() && lastOf(p) == r[1] {
			return p.String()
		}
	}
	return fmt.Sprintf("%s-%s", r[0], r[1])
}

func blocks(m policy.Model) (list []netip.Prefix) {
	for peer := range peers(m) {
		if peer.Block != nil {
			list = append(append(list, peer.Block.CIDR), peer.Block.Except...)
		}
	}
	return list
}

// ports are a protocol's ports, of which no policy tells one from the other.
type ports struct {
	protocol    policy.Protocol
	first, last uint16
}

// otherProtocols stands for those without ports, which no policy tells apart: it is that of ping.
const otherProtocols policy.Protocol = 1

// portsOf returns all ports of all protocols, cut wherever something that a policy or a pod names begins or ends.
func portsOf(models []policy.Model) (list []ports) {
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP, policy.SCTP} {
		cuts := map[int]bool{1: true}
		cut := func(of policy.Protocol, first, last uint16) {
			if first != 0 && cmp.Or(of, policy.TCP) == protocol {
				cuts[int(first)], cuts[int(last)+1] = true, true
			}
		}
		for _, m := range models {
			for p := range portsNamed(m) {
				cut(p.Protocol, p.Number, max(p.Number, p.End))
			}
			for _, pod := range m.Pods {
				for _, p := range pod.Ports {
					cut(p.Protocol, p.Number, p.Number)
				}
			}
		}
		begins := slices.Sorted(maps.Keys(cuts))
		for i, begin := range begins {
			end := 1 << 16
			if i+1 < len(begins) {
				end = begins[i+1]
			}
			if begin < end {
				list = append(list, ports{protocol, uint16(begin), uint16(end - 1)})
			}
		}
	}
	return append(list, ports{protocol: otherProtocols})
}

// portsText is some of all ports: "TCP 80, TCP 8000-8010, UDP".
func portsText(some, all []ports) string {
	if len(some) == len(all) {
		return "on every port"
	}
	var joined []ports
	for _, p := range some {
		if i := len(joined) - 1; i >= 0 && joined[i].protocol == p.protocol && joined[i].last+1 == p.first {
			joined[i].last = p.last
		} else {
			joined = append(joined, p)
		}
	}
	texts := make([]string, len(joined))
	for i, p := range joined {
		texts[i] = p.String()
	}
	return strings.Join(texts, ", ")
}

func (p ports) String() string {
	switch {
	case p.protocol == otherProtocols:
		return "other protocols"
	case p.first == 1 && p.last == 1<<16-1:
		return p.protocol.String()
	case p.first == p.last:
		return fmt.Sprintf("%s %d", p.protocol, p.first)
	}
	return fmt.Sprintf("%s %d-%d", p.protocol, p.first, p.last)
}
