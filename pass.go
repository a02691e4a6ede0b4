package podweft

import "context"

// Pass is what a [Loop] tells the driver about the Apply it is in. A driver gets it with [PassOf]. An Apply that no Loop
// started gets the zero Pass, which holds nothing back and asks for everything to be read.
type Pass struct {
	held     held
	watching bool
}

type passKey struct{}

// PassOf returns the Pass that ctx belongs to.
func PassOf(ctx context.Context) Pass {
	p, _ := ctx.Value(passKey{}).(Pass)
	return p
}

func withPass(ctx context.Context, p Pass) context.Context {
	return context.WithValue(ctx, passKey{}, p)
}

// Held reports whether obj failed lately and is not to be tried in this pass. obj is what the driver would put into its
// [Change]: an object whose text (String) has changed since it failed is another wish and is not held. The driver leaves
// a held object alone and returns its Change with an Err that is [ErrHeld].
//
// While nothing fails, which is nearly always, Held costs nothing and does not look at obj.
func (p Pass) Held(obj Object) bool { return p.held != nil && p.held.has(obj) }

// Watching reports whether the driver's Watch has been listening since before the last pass and this pass is not a
// periodic one. Only then may a driver trust what it remembers (its shadow) instead of reading the kernel.
func (p Pass) Watching() bool { return p.watching }
