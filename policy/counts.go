package policy

// Counts is what policies have decided where they are enforced, in numbers of first packets of connections. An enforcer reads it
// from the kernel's counters, which begin anew when a rule is written.
type Counts struct {
	// Rules are those of policies that have decided something.
	Rules []RuleCount
	// Isolated is what was denied because policies isolate a pod and none of them allows it.
	Isolated []IsolationCount
	// Closed is what was denied because an address that is to be closed is no known pod's.
	Closed Count
}

// Count is a number of packets and their bytes.
type Count struct{ Packets, Bytes uint64 }

// Plus is the sum.
func (c Count) Plus(o Count) Count { return Count{c.Packets + o.Packets, c.Bytes + o.Bytes} }

// RuleCount is what one rule of a policy has decided.
type RuleCount struct {
	Policy    ID
	Direction Direction
	Rule      int // its index
	Action    Action
	Count
}

// IsolationCount is what was denied by the policies that isolate some pods together.
type IsolationCount struct {
	Direction Direction
	Policies  []ID
	Count
}

// Denied adds up what was denied for any reason.
func (c Counts) Denied() Count {
	sum := c.Closed
	for _, r := range c.Rules {
		if r.Action == Deny {
			sum = sum.Plus(r.Count)
		}
	}
	for _, i := range c.Isolated {
		sum = sum.Plus(i.Count)
	}
	return sum
}
