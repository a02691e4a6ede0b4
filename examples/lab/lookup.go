package main

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/podweft/podweft/testnet"
)

// podNames are "pod3a", "pod3b" and so on for node 3; after "pod3z" comes "pod3aa". A tenant's begin with its name.
func podNames(prefix string, node, count int) []string {
	names := make([]string, count)
	for i := range names {
		letters := ""
		for n := i; n >= 0; n = n/26 - 1 {
			letters = string(rune('a'+n%26)) + letters
		}
		names[i] = fmt.Sprintf("%s%d%s", prefix, node, letters)
	}
	return names
}

// pods yields all pods, by node.
func (c *cluster) pods() iter.Seq[*pod] {
	return func(yield func(*pod) bool) {
		for _, m := range c.members {
			for _, p := range m.pods {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// machines are the nodes and the machine outside.
func (c *cluster) machines() []*testnet.Node {
	return slices.Concat(c.fabric.Nodes, []*testnet.Node{c.fabric.Outside})
}

// machine finds a node, a pod, or one of the fabric's other machines by name; nil if there is none.
func (c *cluster) machine(name string) *testnet.Node {
	for _, m := range append(c.machines(), c.fabric.Switch) {
		if m.Name == name {
			return m
		}
	}
	if p := c.anyPod(name); p != nil {
		return p.machine
	}
	return nil
}

// anyPod finds a pod, a tenant's too.
func (c *cluster) anyPod(name string) *pod {
	for _, in := range append([]*cluster{c}, c.tenants...) {
		if p := in.pod(name); p != nil {
			return p
		}
	}
	return nil
}

func (c *cluster) pod(name string) *pod {
	for p := range c.pods() {
		if p.name == name {
			return p
		}
	}
	return nil
}

// memberAt finds the node with that underlay address; nil if there is none.
func (c *cluster) memberAt(underlay netip.Addr) *member {
	for _, m := range c.members {
		if underlay == m.machine.V4 || underlay == m.machine.V6 {
			return m
		}
	}
	return nil
}

// family is that of an address, in words.
func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// address is the one of the same family as like; the zero Addr if there is none.
func address(of []netip.Addr, like netip.Addr) netip.Addr {
	for _, a := range of {
		if a.Is4() == like.Is4() {
			return a
		}
	}
	return netip.Addr{}
}
