package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/etcdconn"
	"github.com/podweft/podweft/ipam/block"
)

// Store is a [block.Store] in etcd.
type Store struct {
	keys
	conn *etcdconn.Conn
}

var _ block.Store = (*Store)(nil)

// New returns the Store in that etcd. It waits for etcd only where a user name has to be checked; otherwise whoever asks the
// Store first hears that etcd is not there. Errors: podweft.ErrInvalid, etcd's about the user.
func New(cfg Config) (*Store, error) {
	conn, err := etcdconn.Dial(cfg.connection())
	if err != nil {
		return nil, err
	}
	return &Store{keys: cfg.keys(), conn: conn}, nil
}

// Close ends the connection, and with it all watches and calls. The blocks stay.
func (s *Store) Close() error { return s.conn.Close() }

// Blocks implements [block.Store]. It is one consistent reading, in pages where there are many.
func (s *Store) Blocks(ctx context.Context, p netip.Prefix) ([]block.Block, error) {
	if !p.IsValid() || p != p.Masked() {
		return nil, &podweft.FieldError{Field: "prefix", Value: p, Problem: "is not a prefix without host bits"}
	}
	blocks, err := s.overlapping(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("blocks of %s: %w", p, err)
	}
	return blocks, nil
}

func (s *Store) overlapping(ctx context.Context, p netip.Prefix) ([]block.Block, error) {
	var found []*mvccpb.KeyValue
	revision := int64(0)
	if around := s.around(p); len(around) > 0 {
		var ops []clientv3.Op
		for _, r := range around {
			ops = append(ops, clientv3.OpGet(r.from, clientv3.WithRange(r.end)))
		}
		r, err := s.conn.Txn(ctx, nil, ops, nil)
		if err != nil {
			return nil, err
		}
		revision = r.Header.Revision
		for _, part := range r.Responses {
			found = append(found, part.GetResponseRange().Kvs...)
		}
	}
	inside := s.inside(p)
	err := s.conn.List(ctx, inside.from, inside.end, revision, func(page *clientv3.GetResponse) { found = append(found, page.Kvs...) })
	if err != nil {
		return nil, err
	}
	var blocks []block.Block
	var errs []error
	for _, kv := range found {
		b, err := s.decode(kv)
		if err != nil {
			// It may not be skipped: no block could ever be made in its place, and whoever has it may be alive.
			errs = append(errs, &podweft.FieldError{
				Field: string(kv.Key), Problem: "does not have a block: " + err.Error(),
				Remedy: "mend it, or delete the key if no node has pods there",
			})
		}
		blocks = append(blocks, b)
	}
	return blocks, errors.Join(errs...)
}

func (k keys) decode(kv *mvccpb.KeyValue) (b block.Block, err error) {
	p, ok := k.parse(string(kv.Key))
	if !ok {
		return block.Block{}, errors.New("its name is not one")
	}
	if err := json.Unmarshal(kv.Value, &b); err != nil {
		return block.Block{}, err
	}
	switch {
	case b.Prefix != p:
		err = fmt.Errorf("it is about %s", b.Prefix)
	case len(b.Shares) == 0:
		err = errors.New("there are no shares")
	default:
		err = b.Validate()
	}
	b.Revision = strconv.FormatInt(kv.ModRevision, 10)
	return b, err
}

// Write implements [block.Store].
func (s *Store) Write(ctx context.Context, b block.Block) (block.Block, error) {
	if err := b.Validate(); err != nil {
		return block.Block{}, err
	}
	if b.Revision == "" && len(b.Shares) == 0 {
		return b, ctx.Err() // a block of nobody: it is not there, and need not be
	}
	written, err := s.swap(ctx, b)
	if err != nil {
		return block.Block{}, fmt.Errorf("%s: %w", b.Prefix, err)
	}
	return written, nil
}

func (s *Store) swap(ctx context.Context, b block.Block) (block.Block, error) {
	when, err := s.unchanged(b)
	if err != nil {
		return block.Block{}, err
	}
	key := s.block(b.Prefix)
	then := clientv3.OpDelete(key)
	if len(b.Shares) > 0 {
		text, err := json.Marshal(b)
		if err != nil {
			return block.Block{}, err
		}
		then = clientv3.OpPut(key, string(text))
	}
	done, err := s.conn.Txn(ctx, when, []clientv3.Op{then}, nil)
	if err != nil {
		return block.Block{}, err
	}
	if !done.Succeeded {
		return block.Block{}, block.ErrChanged
	}
	b = b.Clone()
	b.Revision = strconv.FormatInt(done.Header.Revision, 10)
	return b, nil
}

// unchanged are the conditions under which b can be written: the block is as it was read, or where it is new nothing overlaps it.
func (s *Store) unchanged(b block.Block) (when []clientv3.Cmp, err error) {
	if b.Revision != "" {
		revision, err := strconv.ParseInt(b.Revision, 10, 64)
		if err != nil || revision <= 0 {
			return nil, block.ErrChanged // it is not ours
		}
		return []clientv3.Cmp{etcdconn.Unmodified(s.block(b.Prefix), revision)}, nil
	}
	for _, r := range append(s.around(b.Prefix), s.inside(b.Prefix)) {
		// Of a range every key has to comply, and none does that is there.
		when = append(when, clientv3.Compare(clientv3.CreateRevision(r.from), "=", 0).WithRange(r.end))
	}
	return when, nil
}
