package nft

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// dumpTries is how often a list that changes while it is read is begun anew.
const dumpTries = 8

// Table reads one table. The error is ENOENT (and so fs.ErrNotExist) if it is not there.
func (c *Conn) Table(ctx context.Context, t Table) (TableInfo, error) {
	var info TableInfo
	err := c.get(ctx, t, question{
		kind: unix.NFT_MSG_GETTABLE, family: t.Family,
		body: func(m *message) { m.str(unix.NFTA_TABLE_NAME, t.Name) },
		each: func(r reply) { info, _ = parseTable(r) },
	})
	return info, err
}

// Generation is the number of the namespace's present ruleset: every transaction, anybody's, makes another.
func (c *Conn) Generation(ctx context.Context) (uint32, error) {
	var generation uint32
	err := c.get(ctx, podweft.Named("ruleset generation"), generationQuestion(&generation))
	return generation, err
}

func generationQuestion(generation *uint32) question {
	return question{
		kind: unix.NFT_MSG_GETGEN,
		each: func(r reply) {
			if r.is(unix.NFT_MSG_NEWGEN) {
				*generation = u32(find(r.attrs(), unix.NFTA_GEN_ID))
			}
		},
	}
}

// Tables lists the tables of a family.
func (c *Conn) Tables(ctx context.Context, family Family) ([]TableInfo, error) {
	l := lister[TableInfo]{parse: parseTable, keep: func(t TableInfo) bool { return t.Family == family }}
	return l.list(ctx, c, "tables of family "+family.String(), question{
		kind: unix.NFT_MSG_GETTABLE, family: family,
	})
}

// Chains lists the chains of a table.
func (c *Conn) Chains(ctx context.Context, t Table) ([]Chain, error) {
	l := lister[Chain]{parse: parseChain, keep: func(chain Chain) bool { return chain.Table == t }}
	return l.list(ctx, c, "chains of "+t.ID(), question{
		kind: unix.NFT_MSG_GETCHAIN, family: t.Family,
		body: func(m *message) { m.str(unix.NFTA_CHAIN_TABLE, t.Name) }, // older kernels list those of all tables
	})
}

// HasChain reports whether a table has a chain of that name; there may be no such table. It lists nothing, as Chains does.
func (c *Conn) HasChain(ctx context.Context, t Table, name string) (bool, error) {
	err := c.get(ctx, Chain{Table: t, Name: name}, question{
		kind: unix.NFT_MSG_GETCHAIN, family: t.Family,
		body: func(m *message) {
			m.str(unix.NFTA_CHAIN_TABLE, t.Name)
			m.str(unix.NFTA_CHAIN_NAME, name)
		},
		each: func(reply) {},
	})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// RemoveChains adds to b what removes the chains of these names from a table, with the rules that lead to them, which may be any
// program's. It adds nothing where there are none.
func (c *Conn) RemoveChains(ctx context.Context, b *Batch, t Table, names ...string) error {
	var there []Chain
	for _, name := range names {
		has, err := c.HasChain(ctx, t, name)
		if err != nil {
			return err
		}
		if has {
			there = append(there, Chain{Table: t, Name: name})
		}
	}
	if len(there) == 0 {
		return nil
	}
	rules, err := c.Rules(ctx, t)
	if err != nil {
		return err
	}
	doomed := func(name string) bool {
		return slices.ContainsFunc(there, func(c Chain) bool { return c.Name == name })
	}
	for _, r := range rules {
		if doomed(r.Target()) && !doomed(r.Chain) {
			b.DeleteRule(r)
		}
	}
	for _, chain := range there {
		b.FlushChain(chain)
	}
	for _, chain := range there {
		b.DeleteChain(chain)
	}
	return nil
}

// Rules lists the rules of a table, those of each chain in order.
func (c *Conn) Rules(ctx context.Context, t Table) ([]Rule, error) {
	l := lister[Rule]{parse: parseRule, keep: func(rule Rule) bool { return rule.Table == t }}
	return l.list(ctx, c, "rules of "+t.ID(), question{
		kind: unix.NFT_MSG_GETRULE, family: t.Family,
		body: func(m *message) { m.str(unix.NFTA_RULE_TABLE, t.Name) },
	})
}

// Sets lists the named sets and maps of a table, without their elements. Sets that nft made for a single rule are left out:
// they come and go with the rule.
func (c *Conn) Sets(ctx context.Context, t Table) ([]Set, error) {
	l := lister[Set]{parse: parseSet, keep: func(s Set) bool { return s.Table == t && s.Flags&unix.NFT_SET_ANONYMOUS == 0 }}
	return l.list(ctx, c, "sets of "+t.ID(), question{
		kind: unix.NFT_MSG_GETSET, family: t.Family,
		body: func(m *message) { m.str(unix.NFTA_SET_TABLE, t.Name) },
	})
}

// Elements lists the elements of a set, sorted by key.
func (c *Conn) Elements(ctx context.Context, s Set) ([]Element, error) {
	var ends []end
	err := c.list(ctx, podweft.Named("elements of "+s.ID()), question{
		kind: unix.NFT_MSG_GETSETELEM, family: s.Table.Family,
		body: func(m *message) {
			m.str(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name)
			m.str(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
		},
		restart: func() { ends = nil },
		each:    func(r reply) { ends = parseElements(r, ends) },
		whole:   func() bool { return sortEnds(ends) },
	})
	if err != nil {
		return nil, err
	}
	return join(s, ends), nil
}

// lister collects what a question lists.
type lister[T any] struct {
	parse func(reply) (T, bool)
	keep  func(T) bool
}

func (l lister[T]) list(ctx context.Context, c *Conn, what string, q question) ([]T, error) {
	var all []T
	q.restart = func() { all = nil }
	q.each = func(r reply) {
		if v, ok := l.parse(r); ok && l.keep(v) {
			all = append(all, v)
		}
	}
	if err := c.list(ctx, podweft.Named(what), q); err != nil {
		return nil, err
	}
	return all, nil
}

// question is a request for information and what becomes of the replies, which are valid during each only.
type question struct {
	kind    uint16
	family  Family
	body    func(*message)
	each    func(reply)
	restart func()      // before a new try of a list: forget what came so far
	whole   func() bool // after a list: can it be what was there?
}

// get asks for one thing.
func (c *Conn) get(ctx context.Context, what podweft.Object, q question) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := ctx.Err()
	if err == nil {
		_, err = c.ask(q, 0)
	}
	if err != nil {
		return opError("list", what, err)
	}
	return nil
}

// list asks for many things, again when they changed meanwhile. The kernel is not to be trusted to say so: it does not
// while it sends a set's elements (seen on 6.18: both sides of one transaction in one list, without NLM_F_DUMP_INTR). So
// the ruleset's generation must be the same before and after, and no transaction may be at work in between: see settle.
// What nothing tells is a transaction that is refused while its elements are in the set that is listed.
func (c *Conn) list(ctx context.Context, what podweft.Object, q question) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range dumpTries {
		if err := ctx.Err(); err != nil {
			return opError("list", what, err)
		}
		whole, err := c.listOnce(q)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return opError("list", what, err)
		}
		if err == nil && whole {
			return nil
		}
	}
	return opError("list", what, ErrInterrupted)
}

func (c *Conn) listOnce(q question) (whole bool, err error) {
	var before, after uint32
	q.restart()
	if _, err := c.ask(generationQuestion(&before), 0); err != nil {
		return false, err
	}
	if err := c.settle(); err != nil {
		return false, err
	}
	interrupted, err := c.ask(q, unix.NLM_F_DUMP)
	if err != nil {
		return false, err
	}
	if _, err := c.ask(generationQuestion(&after), 0); err != nil {
		return false, err
	}
	return !interrupted && before == after && (q.whole == nil || q.whole()), nil
}

// settle returns when the transaction that made the present generation has ended. nf_tables_commit counts the generation up first and
// takes what was deleted out of the sets afterwards, one by one. A list goes on where it was by the number of elements it has passed,
// those that are not to be shown too (nf_tables_dump_set): what is taken out in front of that place has it leave out others. An empty
// transaction waits for its turn, changes nothing and, since Linux 5.3 at the latest, makes no generation.
func (c *Conn) settle() error {
	m := message{buf: c.out[:0]}
	for _, kind := range []uint16{unix.NFNL_MSG_BATCH_BEGIN, unix.NFNL_MSG_BATCH_END} {
		m.header(kind, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0)
		m.finish()
	}
	c.out = m.buf
	c.number(c.out)
	return c.send(c.out)
}

// ask sends the question and reads the answer to its end.
func (c *Conn) ask(q question, flags uint16) (interrupted bool, err error) {
	seq, err := c.sendQuestion(q, flags)
	if err != nil {
		return false, err
	}
	ended := false
	var refusal, lost error
	for more := true; more && !ended; {
		more, err = c.receive(func(r reply) {
			if r.seq != seq {
				return // an answer to something older
			}
			interrupted = interrupted || r.flags&unix.NLM_F_DUMP_INTR != 0
			switch r.kind {
			case unix.NLMSG_ERROR:
				ended, refusal = true, refusalOf(r)
			case unix.NLMSG_DONE:
				ended, refusal = true, breakOf(r)
			default:
				q.each(r)
			}
		})
		if err != nil {
			lost = err
		}
	}
	switch {
	case refusal != nil:
		return false, refusal
	case lost != nil:
		return false, lost
	case !ended:
		return false, errors.New("the kernel's answer has no end")
	}
	return interrupted, nil
}

func (c *Conn) sendQuestion(q question, flags uint16) (seq uint32, err error) {
	m := message{buf: c.out[:0]}
	m.begin(q.kind, q.family, flags|unix.NLM_F_ACK)
	if q.body != nil {
		q.body(&m)
	}
	m.finish()
	c.out = m.buf
	c.seq++
	native.PutUint32(c.out[8:], c.seq)
	return c.seq, c.send(c.out)
}

// refusalOf is the error in an NLMSG_ERROR, nil for an acknowledgement.
func refusalOf(r reply) error {
	f, refused := parseFailure(r)
	switch {
	case !refused:
		return nil
	case f.errno == unix.EINVAL && f.text == "", f.errno == unix.EOPNOTSUPP:
		// What nfnetlink_rcv_msg says when there is no nf_tables module.
		return fmt.Errorf("%w: %w", podweft.ErrNotSupported, f.err())
	}
	return f.err()
}

// breakOf is the error with which the kernel broke a list off; nil at its regular end.
func breakOf(r reply) error {
	if len(r.body) < 4 {
		return nil
	}
	if code := int32(native.Uint32(r.body)); code < 0 {
		return unix.Errno(-code)
	}
	return nil
}
