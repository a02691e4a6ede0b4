package podweft

import (
	"context"
	"iter"
	"log/slog"
	"strings"
)

// Op is what a [Change] does to its object.
type Op uint8

// The three things that can be done to an object. Update replaces it in place, without a moment in which it is missing.
const (
	Create Op = iota + 1
	Update
	Delete
)

// String returns the verb, as in "create".
func (op Op) String() string {
	switch op {
	case Create:
		return "create"
	case Update:
		return "update"
	case Delete:
		return "delete"
	}
	return "unknown operation"
}

func (op Op) sign() string {
	switch op {
	case Create:
		return "+ "
	case Update:
		return "~ "
	case Delete:
		return "- "
	}
	return "? "
}

// Object is one thing in the kernel that a driver wants or owns: a link, an address, a route, an nft table.
type Object interface {
	// ID names the object whatever its attributes, as in "route 10.244.2.0/24". Within one driver no two objects
	// share an ID; it stays the same from pass to pass, so that a [Loop] can count an object's failures.
	ID() string
	// String is the whole object as `ip` would print it: "route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink".
	String() string
}

// Named is an Object that is no more than its name.
type Named string

// ID returns the name.
func (n Named) ID() string { return string(n) }

// String returns the name.
func (n Named) String() string { return string(n) }

// Change is one difference between what is and what should be.
type Change struct {
	Op     Op
	Object Object
	// Note says, for people, what String of the object cannot: why it is needed, or what it replaces. Often empty.
	Note string
	// Err is why the change was not made. It is nil in a Plan that has not been applied, except where trying would
	// be pointless: another program's object stands at our key ([ErrConflict]).
	Err error
}

// String is the change as one line of a dry run: "+ route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink".
func (c Change) String() string {
	var b strings.Builder
	c.write(&b)
	return b.String()
}

func (c Change) write(b *strings.Builder) {
	b.WriteString(c.Op.sign())
	b.WriteString(c.Object.String())
	if c.Note != "" {
		b.WriteString("  # ")
		b.WriteString(c.Note)
	}
	if c.Err != nil {
		b.WriteString("  ! ")
		b.WriteString(c.Err.Error())
	}
}

// Plan is an ordered list of changes. An empty Plan means that nothing needs to be done.
type Plan []Change

// String is the dry run that a person reads, one change a line, in the order in which they are made. It is empty for an
// empty Plan.
func (p Plan) String() string {
	var b strings.Builder
	for _, c := range p {
		c.write(&b)
		b.WriteByte('\n')
	}
	return b.String()
}

// Log writes each change that was made to log, at level debug. Where that level is off it costs nothing.
func (p Plan) Log(ctx context.Context, log *slog.Logger) {
	if !log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	for _, c := range p {
		if c.Err == nil {
			log.DebugContext(ctx, c.Op.String(), "object", c.Object)
		}
	}
}

// Failed yields the changes that were not made, each with its error.
func (p Plan) Failed() iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		for _, c := range p {
			if c.Err != nil && !yield(c, c.Err) {
				return
			}
		}
	}
}

// Err joins the errors of all changes that were not made; it is nil when every one was.
func (p Plan) Err() error {
	var errs []error
	for _, err := range p.Failed() {
		errs = append(errs, err)
	}
	return joinErrors(errs)
}
