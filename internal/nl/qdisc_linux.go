package nl

import (
	"context"
	"errors"
	"math"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// TokenBucket limits what leaves a link to a rate (tc-tbf(8)): packets wait in a queue, and are dropped where that is full.
type TokenBucket struct {
	Rate  uint64 // bytes per second
	Burst uint32 // bytes that pass at once after a while without any
	Queue uint32 // bytes that wait at most
}

// Of linux/pkt_sched.h, which x/sys/unix lacks.
const (
	tcHandleRoot = math.MaxUint32 // TC_H_ROOT

	tcaKind    = 1
	tcaOptions = 2

	tcaTBFParms  = 1
	tcaTBFRate64 = 4
	tcaTBFBurst  = 6

	linkLayerEthernet = 1
	sizeofTcmsg       = 20
	sizeofTBFOptions  = 36 // struct tc_tbf_qopt: two rates of 12 bytes, limit, buffer, mtu
)

// SetTokenBucket adds a request to put t in the place of what schedules the packets that leave the link. It fails with ENOENT
// where the kernel has no tbf.
func (b *Batch) SetTokenBucket(link int, t TokenBucket) {
	b.add(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, func(m *message) {
		m.tcmsg(link)
		m.str(tcaKind, "tbf")
		m.nest(tcaOptions, func() {
			options := make([]byte, sizeofTBFOptions)
			options[1] = linkLayerEthernet // else the kernel wants a table of how long each packet takes
			native.PutUint32(options[8:], uint32(min(t.Rate, math.MaxUint32)))
			native.PutUint32(options[24:], t.Queue)
			m.bytes(tcaTBFParms, options)
			m.bytes(tcaTBFRate64, native.AppendUint64(nil, t.Rate))
			m.u32(tcaTBFBurst, t.Burst)
		})
	})
}

func (m *message) tcmsg(link int) {
	m.fixed(unix.AF_UNSPEC, 0, 0, 0)
	m.buf = native.AppendUint32(m.buf, uint32(link))
	m.buf = native.AppendUint32(m.buf, 0) // handle: the kernel's choice
	m.buf = native.AppendUint32(m.buf, tcHandleRoot)
	m.buf = native.AppendUint32(m.buf, 0)
}

// TokenBucket returns what the link is limited to, but for the burst, which the kernel keeps as a time; the zero TokenBucket where
// none is at its root.
func (c *Conn) TokenBucket(ctx context.Context, link int) (t TokenBucket, err error) {
	// The answer is a notification: who asks gets it only as an echo (qdisc_get_notify).
	err = c.getFlagged(ctx, unix.RTM_GETQDISC, unix.NLM_F_ECHO, func(m *message) { m.tcmsg(link) }, func(body []byte) {
		if found, ok := parseTokenBucket(body, link); ok {
			t = found
		}
	})
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
		return TokenBucket{}, nil // it has the one that every link has, which is not told (tc_qdisc_dump_ignore in net/sched/sch_api.c)
	case errors.Is(err, unix.ENODEV):
		err = ErrNoLink
	}
	if err != nil {
		return TokenBucket{}, &podweft.OpError{Op: "find", Object: podweft.Named("queueing discipline"), Err: err}
	}
	return t, nil
}

// parseTokenBucket reads one at the root of the link.
func parseTokenBucket(body []byte, link int) (t TokenBucket, ok bool) {
	if len(body) < sizeofTcmsg || int(int32(native.Uint32(body[4:]))) != link || native.Uint32(body[12:]) != tcHandleRoot {
		return t, false
	}
	attrs(body[sizeofTcmsg:], func(kind uint16, v []byte) {
		switch kind {
		case tcaKind:
			ok = unix.ByteSliceToString(v) == "tbf"
		case tcaOptions:
			attrs(v, func(kind uint16, v []byte) {
				switch {
				case kind == tcaTBFParms && len(v) >= sizeofTBFOptions:
					t.Rate, t.Queue = max(t.Rate, uint64(native.Uint32(v[8:]))), native.Uint32(v[24:])
				case kind == tcaTBFRate64 && len(v) >= 8: // where 32 bits do not hold it
					t.Rate = max(t.Rate, native.Uint64(v))
				}
			})
		}
	})
	return t, ok
}
