package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/podweft/podweft/policy"
)

// diff lists the connections that one set of files allows and the other does not: between all pods, and between pods and an address
// of each block that a policy names, on each port that a policy or a pod names and on one that nobody does.
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
	ends, ports := endsOf(models[:]), portsOf(models[:])
	changed := 0
	for _, from := range ends {
		for _, to := range ends {
			if from.addr.Is4() != to.addr.Is4() || !from.pod && !to.pod {
				continue
			}
			for _, port := range ports {
				packet := policy.Packet{Src: from.addr, Dst: to.addr, Protocol: port.protocol, Port: port.number}
				before, _ := compiled[0].Evaluate(packet)
				after, why := compiled[1].Evaluate(packet)
				if before == after {
					continue
				}
				changed++
				p.printf("%s %s -> %s %s %d: %s\n", map[policy.Verdict]string{policy.Allowed: "+", policy.Denied: "-"}[after],
					from.name, to.name, port.protocol, port.number, deciding(why))
			}
		}
	}
	if changed > 0 {
		return errProblem
	}
	p.printf("no connection changes\n")
	return nil
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

// endsOf returns the pods of both models that have addresses, and the first address of each block that no pod has.
func endsOf(models []policy.Model) []end {
	named := map[netip.Addr]end{}
	for _, m := range models {
		for _, prefix := range blocks(m) {
			a := prefix.Masked().Addr()
			if a.IsUnspecified() {
				a = a.Next()
			}
			named[a] = end{name: a.String(), addr: a}
		}
	}
	for _, m := range models {
		for _, pod := range m.Pods {
			for _, a := range pod.Addresses {
				named[a] = end{name: fmt.Sprintf("%s/%s (%s)", pod.Namespace, pod.Name, a), addr: a, pod: true}
			}
		}
	}
	var ends []end
	for _, e := range named {
		ends = append(ends, e)
	}
	slices.SortFunc(ends, func(a, b end) int { return cmp.Or(strings.Compare(a.name, b.name), a.addr.Compare(b.addr)) })
	return ends
}

func blocks(m policy.Model) (list []netip.Prefix) {
	for peer := range peers(m) {
		if peer.Block != nil {
			list = append(append(list, peer.Block.CIDR), peer.Block.Except...)
		}
	}
	return list
}

// port is the port of a connection.
type port struct {
	protocol policy.Protocol
	number   uint16
}

// nobodys is a port that no service has (RFC 6335: tcpmux, long gone).
var nobodys = port{policy.TCP, 1}

func portsOf(models []policy.Model) []port {
	seen := map[port]bool{nobodys: true}
	for _, m := range models {
		for p := range ports(m) {
			for _, number := range []uint16{p.Number, p.End} {
				if number != 0 {
					seen[port{cmp.Or(p.Protocol, policy.TCP), number}] = true
				}
			}
		}
		for _, pod := range m.Pods {
			for _, p := range pod.Ports {
				seen[port{cmp.Or(p.Protocol, policy.TCP), p.Number}] = true
			}
		}
	}
	var list []port
	for p := range seen {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b port) int {
		return cmp.Or(cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.number, b.number))
	})
	return list
}
