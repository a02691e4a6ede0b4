package nft

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// ErrTooLarge: the transaction does not fit in the send buffer that this process may have. It comes with EMSGSIZE. Load
// splits such a batch.
var ErrTooLarge = errors.New("transaction too large for the send buffer")

// ErrInterrupted: what was listed kept changing while it was read.
var ErrInterrupted = errors.New("list kept changing while it was read")

// errLost: so many objects failed that the kernel's answers overran the receive buffer.
var errLost = errors.New("answers lost: receive buffer full")

// TransactionError is a transaction that the kernel refused; nothing of it was done. It names every object that was at
// fault, in the order of the batch: often the later ones only miss the first.
type TransactionError struct {
	Failed []*podweft.OpError
}

// Error lists the failures, one a line.
func (e *TransactionError) Error() string {
	var lines []string
	for _, f := range e.Failed {
		lines = append(lines, f.Error())
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the failures.
func (e *TransactionError) Unwrap() []error {
	errs := make([]error, len(e.Failed))
	for i, f := range e.Failed {
		errs[i] = f
	}
	return errs
}

func opError(op string, object podweft.Object, err error) *podweft.OpError {
	return &podweft.OpError{Op: op, Object: object, Err: err}
}

// transaction is what an error names when the kernel refused a batch without looking at its objects.
const transaction = podweft.Named("nf_tables transaction")

// failure is the kernel's negative answer to one message.
type failure struct {
	errno  unix.Errno
	text   string // its explanation, if any
	offset uint32 // of the attribute at fault in the message; 0 is unknown
}

func (f failure) err() error {
	var err error = f.errno
	if f.text != "" {
		err = fmt.Errorf("%w (%s)", err, f.text)
	}
	return err
}

// Extended acknowledgements, linux/netlink.h.
const (
	nlmsgFlagAckTLVs = 0x200 // NLM_F_ACK_TLVS
	nlmsgFlagCapped  = 0x100 // NLM_F_CAPPED
)

// parseFailure decodes an NLMSG_ERROR: the errno, negative, then the request's header, then its body unless it was cut
// off, then what explains the error. ok is false for a mere acknowledgement.
func parseFailure(r reply) (f failure, ok bool) {
	if len(r.body) < 4 {
		return failure{errno: unix.EBADMSG}, true
	}
	f.errno = unix.Errno(-int32(native.Uint32(r.body)))
	if f.errno == 0 {
		return failure{}, false
	}
	explanation := 4 + unix.NLMSG_HDRLEN
	if r.flags&nlmsgFlagCapped == 0 && len(r.body) >= 8 {
		explanation = 4 + align(int(native.Uint32(r.body[4:])))
	}
	if r.flags&nlmsgFlagAckTLVs == 0 || explanation > len(r.body) {
		return f, true
	}
	for a := range attrs(r.body[explanation:]) {
		switch a.kind {
		case unix.NLMSGERR_ATTR_MSG:
			f.text = str(a.value)
		case unix.NLMSGERR_ATTR_OFFS:
			if len(a.value) == 4 {
				f.offset = native.Uint32(a.value)
			}
		}
	}
	return f, true
}
