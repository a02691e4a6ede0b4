package cniplugin

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/ipam"
)

// Codes of errors, from section 5 of the CNI specification and, from 100, our own.
const (
	CodeVersion     uint = types.ErrIncompatibleCNIVersion
	CodeField       uint = types.ErrUnsupportedField
	CodeContainer   uint = types.ErrUnknownContainer
	CodeEnvironment uint = types.ErrInvalidEnvironmentVariables
	CodeIO          uint = types.ErrIOFailure
	CodeDecode      uint = types.ErrDecodingFailure
	CodeConfig      uint = types.ErrInvalidNetworkConfig
	CodeNetNS       uint = types.ErrInvalidNetNS
	CodeTryAgain    uint = types.ErrTryAgainLater

	CodeNotReady uint = 50 // STATUS: ADD cannot be served
	CodeLimited  uint = 51 // STATUS: and pods that run may have trouble

	CodeConflict  uint = 100 // another program's object is in the way
	CodeKernel    uint = 101 // the kernel refused
	CodeExhausted uint = 102 // no address is left
	CodeTaken     uint = 103 // the address or the port that was asked for is another pod's
	CodeMissing   uint = 104 // CHECK: something of the attachment is gone
	CodeOther     uint = 199
)

// Error is why a call failed, as the runtime gets to see it: a runtime shows "msg; details" to its user as it is.
type Error struct {
	Code    uint
	Msg     string // what is wrong and what to do about it
	Details string
	Err     error // why; may be nil
}

// Error is Msg with the reason.
func (e *Error) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return e.Msg + "; " + e.Details
}

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

// fail makes an Error with that code of err, whose text becomes the details.
func fail(code uint, msg string, err error) *Error {
	e := &Error{Code: code, Msg: msg, Err: err}
	if err != nil {
		e.Details = oneLine(err)
	}
	return e
}

// oneLine is the text of an error, joined ones side by side.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// describe makes an Error of any, which says what to do about it where the kernel's word tells.
func describe(err error) *Error {
	e := *coded(err)
	if r := remedy(e.Err); r != "" && !strings.HasSuffix(e.Msg, r) {
		e.Msg += ": " + r
	}
	return &e
}

// remedy is what to do about an error that has its reason outside of the call, if it is one that many calls may end with.
func remedy(err error) string {
	is := func(errs ...error) bool {
		return slices.ContainsFunc(errs, func(one error) bool { return errors.Is(err, one) })
	}
	switch {
	case is(ipam.ErrLocked):
		return "find it with fuser or lslocks, and let it go on or end it"
	case isIO(err) && is(syscall.ENOSPC, syscall.EDQUOT):
		return "make room there, inodes too (df, df -i)"
	case isIO(err) && is(syscall.EROFS):
		return "mount it read-write"
	case isIO(err) && is(syscall.ENOTDIR, syscall.EEXIST, syscall.ELOOP, syscall.EISDIR):
		return "remove what is in the way there"
	case is(syscall.EMFILE, syscall.ENFILE):
		return "allow more open files (ulimit -n, fs.file-max)"
	case is(syscall.ENOMEM, syscall.ENOBUFS):
		return "free memory of the node"
	case is(syscall.EPERM, syscall.EACCES):
		return "call the plugin as the node's root, with CAP_NET_ADMIN and CAP_SYS_ADMIN"
	}
	return ""
}

// coded finds the code of an error.
func coded(err error) *Error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	var theirs *types.Error // of a delegate, or of the library
	if errors.As(err, &theirs) {
		// One that ends without the JSON of an error has no code.
		return &Error{Code: cmp.Or(theirs.Code, CodeOther), Msg: theirs.Msg, Details: theirs.Details, Err: err}
	}
	code := CodeOther
	var op *podweft.OpError
	switch {
	case errors.Is(err, podweft.ErrConflict):
		code = CodeConflict
	case errors.Is(err, ipam.ErrExhausted):
		code = CodeExhausted
	case errors.Is(err, ipam.ErrTaken):
		code = CodeTaken
	case errors.Is(err, ipam.ErrLocked):
		code = CodeTryAgain
	case errors.Is(err, podweft.ErrInvalid):
		code = CodeConfig
	case errors.As(err, &op):
		code = CodeKernel
	case isIO(err):
		code = CodeIO
	}
	return &Error{Code: code, Msg: oneLine(err), Err: err}
}

func isIO(err error) bool {
	var path *fs.PathError
	var paths *os.LinkError // of rename(2)
	return errors.As(err, &path) || errors.As(err, &paths)
}

// unsupported names a field that we know and cannot serve: leaving it out silently would be a promise broken.
func unsupported(field string, value any, remedy string) *Error {
	return &Error{
		Code: CodeField, Msg: fmt.Sprintf("field %q with value %v is not supported: %s", field, value, remedy),
	}
}
