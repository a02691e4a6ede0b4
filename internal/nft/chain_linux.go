package nft

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Hook is where in a packet's way a base chain looks at it.
type Hook uint32

// The hooks of the INet, IPv4 and IPv6 families.
const (
	Prerouting  Hook = unix.NF_INET_PRE_ROUTING
	Input       Hook = unix.NF_INET_LOCAL_IN
	Forward     Hook = unix.NF_INET_FORWARD
	Output      Hook = unix.NF_INET_LOCAL_OUT
	Postrouting Hook = unix.NF_INET_POST_ROUTING
)

// String returns the hook's name in nft's language.
func (h Hook) String() string {
	switch h {
	case Prerouting:
		return "prerouting"
	case Input:
		return "input"
	case Forward:
		return "forward"
	case Output:
		return "output"
	case Postrouting:
		return "postrouting"
	}
	return fmt.Sprintf("hook %d", uint32(h))
}

// Usual priorities of base chains, linux/netfilter_ipv4.h enum nf_ip_hook_priorities: lower ones come first.
const (
	PriorityDstNAT int32 = -100
	PriorityFilter int32 = 0
	PrioritySrcNAT int32 = 100
)

// Policy is what happens to a packet that reaches the end of a base chain.
type Policy uint32

// The two policies. Every Base must say which: the zero value is Drop.
const (
	Drop   Policy = 0 // NF_DROP and NF_ACCEPT, linux/netfilter.h; missing in x/sys
	Accept Policy = 1
)

// String returns "drop" or "accept".
func (p Policy) String() string {
	if p == Accept {
		return "accept"
	}
	return "drop"
}

// Base is what makes a chain a base chain: the kernel calls it by itself.
type Base struct {
	Type     string // "filter", "nat" or "route"
	Hook     Hook
	Priority int32
	Policy   Policy
}

// Chain is a chain without its rules. The zero Base makes one that is only jumped to. Chains are comparable: what Chains
// reads is == to what AddChain made. It is a [podweft.Object].
type Chain struct {
	Table Table
	Name  string
	Base  Base
}

// ID returns the chain as nft names it: "chain inet filter forward".
func (c Chain) ID() string { return "chain " + c.path() }

// String adds what a base chain is hooked to.
func (c Chain) String() string {
	if c.Base == (Base{}) {
		return c.ID()
	}
	b := c.Base
	return fmt.Sprintf("%s { type %s hook %s priority %d; policy %s; }", c.ID(), b.Type, b.Hook, b.Priority, b.Policy)
}

func (c Chain) path() string { return c.Table.path() + " " + c.Name }

// AddChain makes the chain if it is missing. One that is there may differ in its policy alone.
func (b *Batch) AddChain(c Chain) {
	b.request(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, c.Table.Family, "create", c, func(m *message) {
		m.str(unix.NFTA_CHAIN_TABLE, c.Table.Name)
		m.str(unix.NFTA_CHAIN_NAME, c.Name)
		if c.Base == (Base{}) {
			return
		}
		hook := m.open(unix.NFTA_CHAIN_HOOK)
		m.u32(unix.NFTA_HOOK_HOOKNUM, uint32(c.Base.Hook))
		m.u32(unix.NFTA_HOOK_PRIORITY, uint32(c.Base.Priority))
		m.close(hook)
		m.u32(unix.NFTA_CHAIN_POLICY, uint32(c.Base.Policy))
		m.str(unix.NFTA_CHAIN_TYPE, c.Base.Type)
	})
}

// DeleteChain deletes the chain with its rules. One that others still jump to is busy.
func (b *Batch) DeleteChain(c Chain) {
	b.request(unix.NFT_MSG_DELCHAIN, 0, c.Table.Family, "delete", c, func(m *message) {
		m.str(unix.NFTA_CHAIN_TABLE, c.Table.Name)
		m.str(unix.NFTA_CHAIN_NAME, c.Name)
	})
}

// FlushChain deletes the chain's rules.
func (b *Batch) FlushChain(c Chain) {
	b.request(unix.NFT_MSG_DELRULE, 0, c.Table.Family, "flush", c, func(m *message) {
		m.str(unix.NFTA_RULE_TABLE, c.Table.Name)
		m.str(unix.NFTA_RULE_CHAIN, c.Name)
	})
}

func parseChain(r reply) (Chain, bool) {
	if !r.is(unix.NFT_MSG_NEWCHAIN) {
		return Chain{}, false
	}
	c := Chain{Table: Table{Family: r.family()}}
	for a := range attrs(r.attrs()) {
		switch a.kind {
		case unix.NFTA_CHAIN_TABLE:
			c.Table.Name = str(a.value)
		case unix.NFTA_CHAIN_NAME:
			c.Name = str(a.value)
		case unix.NFTA_CHAIN_TYPE:
			c.Base.Type = str(a.value)
		case unix.NFTA_CHAIN_POLICY:
			c.Base.Policy = Policy(u32(a.value))
		case unix.NFTA_CHAIN_HOOK:
			c.Base.Hook = Hook(u32(find(a.value, unix.NFTA_HOOK_HOOKNUM)))
			c.Base.Priority = int32(u32(find(a.value, unix.NFTA_HOOK_PRIORITY)))
		}
	}
	return c, true
}
