package nft

import (
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// expressions writes a rule's expressions, each an element of a list. Those that most rules are made of we write ourselves and just as
// google/nftables does: it makes a slice or two for each attribute, and a large table has 100,000 expressions.
func (m *message) expressions(family Family, exprs []expr.Any) error {
	for _, e := range exprs {
		if m.usual(e) {
			continue
		}
		raw, err := expr.Marshal(byte(family), e)
		if err != nil {
			return err
		}
		m.bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, raw)
	}
	return nil
}

// usual writes e if it is one of those, and reports whether it is.
func (m *message) usual(e expr.Any) bool {
	switch e := e.(type) {
	case *expr.Payload:
		if e.OperationType != expr.PayloadLoad || e.CsumType != 0 {
			return false
		}
		m.payload(e)
	case *expr.Meta:
		m.meta(e)
	case *expr.Ct:
		if !directed(e) {
			return false
		}
		m.directedCt(e)
	case *expr.Cmp:
		m.cmp(e)
	case *expr.Lookup:
		m.lookup(e)
	case *expr.Counter:
		m.counter(e)
	case *expr.Verdict:
		m.immediate(e)
	default:
		return false
	}
	return true
}

// openExpr begins an expression and returns what closeExpr needs.
func (m *message) openExpr(name string) (at [2]int) {
	at[0] = m.open(unix.NFTA_LIST_ELEM)
	m.str(unix.NFTA_EXPR_NAME, name)
	at[1] = m.open(unix.NFTA_EXPR_DATA)
	return at
}

func (m *message) closeExpr(at [2]int) {
	m.close(at[1])
	m.close(at[0])
}

func (m *message) payload(e *expr.Payload) {
	at := m.openExpr("payload")
	m.u32(unix.NFTA_PAYLOAD_DREG, e.DestRegister)
	m.u32(unix.NFTA_PAYLOAD_BASE, uint32(e.Base))
	m.u32(unix.NFTA_PAYLOAD_OFFSET, e.Offset)
	m.u32(unix.NFTA_PAYLOAD_LEN, e.Len)
	m.closeExpr(at)
}

func (m *message) meta(e *expr.Meta) {
	at := m.openExpr("meta")
	m.u32(unix.NFTA_META_KEY, uint32(e.Key))
	register := uint16(unix.NFTA_META_DREG)
	if e.SourceRegister {
		register = unix.NFTA_META_SREG
	}
	m.u32(register, e.Register)
	m.closeExpr(at)
}

// directedCt we must write ourselves: google/nftables makes the direction four bytes long, while the kernel's is one
// (NFTA_CT_DIRECTION in nft_ct_policy, net/netfilter/nft_ct.c).
func (m *message) directedCt(e *expr.Ct) {
	at := m.openExpr("ct")
	m.u32(unix.NFTA_CT_KEY, uint32(e.Key))
	m.u32(unix.NFTA_CT_DREG, e.Register)
	m.bytes(unix.NFTA_CT_DIRECTION, []byte{byte(e.Direction)})
	m.closeExpr(at)
}

func (m *message) cmp(e *expr.Cmp) {
	at := m.openExpr("cmp")
	m.u32(unix.NFTA_CMP_SREG, e.Register)
	m.u32(unix.NFTA_CMP_OP, uint32(e.Op))
	data := m.open(unix.NFTA_CMP_DATA)
	m.bytes(unix.NFTA_DATA_VALUE, e.Data)
	m.close(data)
	m.closeExpr(at)
}

func (m *message) lookup(e *expr.Lookup) {
	at := m.openExpr("lookup")
	if e.SourceRegister != 0 {
		m.u32(unix.NFTA_LOOKUP_SREG, e.SourceRegister)
	}
	if e.IsDestRegSet {
		m.u32(unix.NFTA_LOOKUP_DREG, e.DestRegister)
	}
	if e.Invert {
		m.u32(unix.NFTA_LOOKUP_FLAGS, unix.NFT_LOOKUP_F_INV)
	}
	m.str(unix.NFTA_LOOKUP_SET, e.SetName)
	m.u32(unix.NFTA_LOOKUP_SET_ID, e.SetID)
	m.closeExpr(at)
}

func (m *message) counter(e *expr.Counter) {
	at := m.openExpr("counter")
	m.u64(unix.NFTA_COUNTER_BYTES, e.Bytes)
	m.u64(unix.NFTA_COUNTER_PACKETS, e.Packets)
	m.closeExpr(at)
}

func (m *message) immediate(e *expr.Verdict) {
	at := m.openExpr("immediate")
	m.u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
	m.verdict(unix.NFTA_IMMEDIATE_DATA, *e)
	m.closeExpr(at)
}
