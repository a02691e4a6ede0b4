package nftables

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/enforce"
)

// between compares two Rulesets without looking at what they share, and renders only what differs, as it was and as it is to be.
// lists counts the chains that use each list of ports, and is brought up to date.
func between(was, is renderer, lists map[string]int) (*change, error) {
	gone, added := is.rules.Endpoints.Diff(was.rules.Endpoints, policy.Endpoint.Compare)
	if err := enforce.OneNode(is.rules, slices.Values(added)); err != nil {
		return nil, err
	}
	was.frameSets()
	is.frameSets()
	if !slices.Equal(was.rules.Locals, is.rules.Locals) {
		was.locals(was.rules.Locals)
		is.locals(is.rules.Locals)
	}
	was.endpoints(slices.Values(gone))
	is.endpoints(slices.Values(added))
	eachPair(was.rules.PeerSets, is.rules.PeerSets, peerSetName, func(old, now *policy.PeerSet) {
		var a, b policy.List[netip.Addr]
		if old != nil {
			a = old.Addrs
		}
		if now != nil {
			b = now.Addrs
		}
		gone, added := b.Diff(a, netip.Addr.Compare)
		if old != nil {
			was.peerSet(old, slices.Values(gone))
		}
		if now != nil {
			is.peerSet(now, slices.Values(added))
		}
	})
	eachPair(was.rules.PortSets, is.rules.PortSets, portSetName, func(old, now *policy.PortSet) {
		var a, b policy.List[policy.AddrPort]
		if old != nil {
			a = old.Elements
		}
		if now != nil {
			b = now.Elements
		}
		gone, added := b.Diff(a, policy.AddrPort.Compare)
		if old != nil {
			was.portSet(old, slices.Values(gone))
		}
		if now != nil {
			is.portSet(now, slices.Values(added))
		}
	})
	eachPair(was.rules.BlockSets, is.rules.BlockSets, blockSetName, func(old, now *policy.BlockSet) {
		if old != nil {
			was.blockSet(old)
		}
		if now != nil {
			is.blockSet(now)
		}
	})
	classesBetween(&was, &is, chainsBetween(&was, &is, lists))
	return compare(was.im, is.im), nil
}

// chainsBetween renders chains that differ, and returns the names of those that stand in classes, or did.
func chainsBetween(was, is *renderer, lists map[string]int) (inClasses map[string]bool) {
	inClasses = map[string]bool{}
	before := map[string][]policy.PortRange{}
	var after [][]policy.PortRange
	eachPair(was.rules.Chains, is.rules.Chains, chainName, func(old, now *policy.Chain) {
		if old != nil {
			was.policyChains(old)
			inClasses[old.Name] = inlined(old)
			for _, ports := range portLists(old) {
				lists[portListName(ports)]--
				before[portListName(ports)] = ports
			}
		}
		if now != nil {
			is.policyChains(now)
			inClasses[now.Name] = inClasses[now.Name] || inlined(now)
			after = append(after, portLists(now)...)
		}
	})
	for _, ports := range after {
		name := portListName(ports)
		if lists[name] == 0 && before[name] == nil {
			is.portList(ports)
		}
		lists[name]++
	}
	for name, ports := range before {
		if lists[name] == 0 {
			was.portList(ports)
			delete(lists, name)
		}
	}
	return inClasses
}

// classesBetween renders classes that differ, and those that have a chain in them which does.
func classesBetween(was, is *renderer, inClasses map[string]bool) {
	changed := func(name string) bool { return inClasses[name] }
	eachPair(was.rules.Classes, is.rules.Classes, className, func(old, now *policy.Class) {
		if old != nil {
			was.classChains(old)
		}
		if now != nil {
			is.classChains(now)
		}
	})
	if len(inClasses) == 0 {
		return
	}
	for _, c := range is.rules.Classes {
		if !slices.ContainsFunc(slices.Concat(c.Admin, c.Policies, c.Baseline), changed) {
			continue
		}
		if i, ok := find(was.rules.Classes, c.Name, className); ok && was.rules.Classes[i] == c {
			was.classChains(c)
			is.classChains(c)
		}
	}
}

func peerSetName(s *policy.PeerSet) string   { return s.Name }
func portSetName(s *policy.PortSet) string   { return s.Name }
func blockSetName(s *policy.BlockSet) string { return s.Name }
func chainName(c *policy.Chain) string       { return c.Name }
func className(c *policy.Class) string       { return c.Name }

func find[T any](list []*T, name string, of func(*T) string) (int, bool) {
	return slices.BinarySearchFunc(list, name, func(o *T, name string) int { return strings.Compare(of(o), name) })
}

// eachPair calls do for every two objects of one name that are not one object, with nil where a list has none of that name. Both
// lists are sorted by name.
func eachPair[T any](was, is []*T, name func(*T) string, do func(was, is *T)) {
	for len(was)+len(is) > 0 {
		switch {
		case len(was) > 0 && len(is) > 0 && was[0] == is[0]: // most are shared, and names take longer to compare
			was, is = was[1:], is[1:]
		case len(is) == 0 || len(was) > 0 && name(was[0]) < name(is[0]):
			do(was[0], nil)
			was = was[1:]
		case len(was) == 0 || name(is[0]) < name(was[0]):
			do(nil, is[0])
			is = is[1:]
		default:
			do(was[0], is[0])
			was, is = was[1:], is[1:]
		}
	}
}

// countLists counts the chains that use each list of ports.
func countLists(rules *policy.Ruleset) map[string]int {
	lists := map[string]int{}
	for _, c := range rules.Chains {
		for _, ports := range portLists(c) {
			lists[portListName(ports)]++
		}
	}
	return lists
}
