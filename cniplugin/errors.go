package cniplugin

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strings"

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

// describe finds the code of any error and makes an Error of it.
func describe(err error) *Error {
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
	return errors.As(err, &path)
}

// unsupported names a field that we know and cannot serve: leaving it out silently would be a promise broken.
func unsupported(field string, value any, remedy string) *Error {
	return &Error{
		Code: CodeField, Msg: fmt.Sprintf("field %q with value %v is not supported: %s", field, value, remedy),
	}
}
