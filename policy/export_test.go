package policy

// Endpoints makes a list of them, for a Ruleset made by hand.
func Endpoints(list ...Endpoint) List[Endpoint] {
	t := longTable[Endpoint]{edits: edits[Endpoint]{add: list}}
	t.flush(Endpoint.Compare, Endpoint.addr)
	return t.list
}

// Kept counts what the Compiler keeps of any kind.
func (c *Compiler) Kept() int {
	scopes := 0
	for _, ns := range c.namespaces {
		scopes += len(ns.scopes.rest) + len(ns.scopes.under)
	}
	return len(c.nodes) + len(c.namespaces) + len(c.pods) + len(c.claims) + len(c.policies) + len(c.scopes) + len(c.wide) +
		len(c.blocks) + len(c.ports) + len(c.classes) + scopes
}
