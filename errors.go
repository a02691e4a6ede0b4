package podweft

import (
	"errors"
	"fmt"
	"strings"
)

// The errors a caller can branch on with errors.Is. They come wrapped in an [*OpError] or a [*FieldError], which say which
// object or field; the kernel's own word (an errno) is kept beside them, so errors.Is(err, unix.ENETUNREACH) works too.
var (
	// ErrConflict: an object that does not bear our mark stands where ours should be. It is left untouched.
	ErrConflict = errors.New("another program's object is in the way")
	// ErrNotSupported: this kernel, or this namespace, cannot do it.
	ErrNotSupported = errors.New("not supported by this kernel")
	// ErrInvalid: a Spec, a configuration or something another node wrote makes no sense.
	ErrInvalid = errors.New("invalid")
	// ErrHeld: the object failed before and its [Loop] has not yet come to the next try.
	ErrHeld = errors.New("held back after earlier failures")
)

// OpError is a failed operation on one object of the kernel.
type OpError struct {
	Op     string // what was tried: "create", "delete", "list"
	Object Object // what it was tried on
	Err    error  // why it failed; keeps the errno
}

// Error reads as a sentence: "create route 10.1.3.0/24 via 192.0.2.9: network is unreachable".
func (e *OpError) Error() string { return fmt.Sprintf("%s %s: %s", e.Op, e.Object, e.Err) }

// Unwrap returns the reason.
func (e *OpError) Unwrap() error { return e.Err }

// FieldError is a value that cannot be used: in a Spec, a configuration file, a lease, a plugin's input. It is an
// [ErrInvalid].
type FieldError struct {
	Field   string // where it stands, as its author wrote it: "Backend.VNI"
	Value   any    // what stands there; nil when nothing does
	Problem string // what is wrong with it: "is not a VNI"
	Remedy  string // what to write instead: "use 1 to 16777215"; may be empty
}

// Error names the field, the value, the problem and the remedy: "Backend.VNI: 0 is not a VNI: use 1 to 16777215".
func (e *FieldError) Error() string {
	var b strings.Builder
	b.WriteString(e.Field)
	b.WriteString(": ")
	if e.Value != nil {
		fmt.Fprintf(&b, "%v ", e.Value)
	}
	b.WriteString(e.Problem)
	if e.Remedy != "" {
		b.WriteString(": ")
		b.WriteString(e.Remedy)
	}
	return b.String()
}

// Is reports whether target is [ErrInvalid].
func (e *FieldError) Is(target error) bool { return target == ErrInvalid }

// joinErrors is errors.Join without the wrapper around a single error.
func joinErrors(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}
