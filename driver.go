package podweft

import "context"

// A Driver makes the kernel agree with a Spec of type S: plain data that says everything that should be there. The
// drivers of this module are vxlan, hostgw and those named in doc.go; anybody may write one, and a [Loop] runs it.
//
// A Driver owns what bears its mark (a route protocol, a link alias, an nft table of its own) and changes nothing else.
// Its methods are safe for concurrent use.
type Driver[S any] interface {
	// Plan reads the kernel and compares; it writes nothing. An empty Plan means that the kernel agrees with spec.
	Plan(ctx context.Context, spec S) (Plan, error)

	// Apply reads, compares and writes the difference. It is idempotent: applied again at once, it changes nothing.
	// It goes on past an object that fails and returns every failure, joined, each as an [*OpError]. The Plan it
	// returns is what it did or tried; a Change that failed carries its error, the same that is joined. An error that
	// no Change carries, such as that of a dump, concerns the whole Plan.
	Apply(ctx context.Context, spec S) (Plan, error)

	// Watch calls changed once when it has begun to listen and then whenever the kernel may have moved, until ctx
	// ends (it then returns nil) or listening breaks. changed carries no facts: it only says "look again". It must
	// not block.
	Watch(ctx context.Context, changed func()) error
}
