package nat

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
)

// keeper keeps one table of ours, whatever it is for.
type keeper struct {
	conn *nft.Conn
	name nft.Table
	log  *slog.Logger

	applying sync.Mutex // an apply reads and writes without another in between
}

func (k *keeper) open(cfg Config, name nft.Table) (err error) {
	if err := cfg.Validate(); err != nil {
		return err
	}
	k.name, k.log = name, cfg.Logger
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	if k.conn, err = nft.Open(cfg.NetNS); err != nil {
		return err
	}
	if _, err := k.conn.Generation(context.Background()); err != nil { // answered at once
		return errors.Join(err, k.conn.Close())
	}
	return nil
}

// plan lists what makes the table want; nil is no table.
func (k *keeper) plan(ctx context.Context, want *table) (podweft.Plan, error) {
	steps, err := k.compare(ctx, always(want))
	return planOf(steps), err
}

// tries is how often an apply begins anew because the table was changed between reading and writing.
const tries = 4

// apply makes the table want.
func (k *keeper) apply(ctx context.Context, want *table) (podweft.Plan, error) {
	return k.applyLatest(ctx, always(want))
}

func always(want *table) func() (*table, error) {
	return func() (*table, error) { return want, nil }
}

// applyLatest makes the table what want returns, which is asked when the table has been read. The plan has what each try made,
// and what the last one could not.
func (k *keeper) applyLatest(ctx context.Context, want func() (*table, error)) (plan podweft.Plan, err error) {
	k.applying.Lock()
	defer k.applying.Unlock()
	for try := 1; ; try++ {
		steps, err := k.compare(ctx, want)
		if err != nil {
			return plan, err
		}
		hold(podweft.PassOf(ctx), steps)
		k.write(ctx, steps)
		last := planOf(steps)
		if err = failures(last); try == tries || !moved(err) {
			plan = append(plan, last...)
			k.report(ctx, plan)
			return plan, err
		}
		plan = append(plan, slices.DeleteFunc(last, func(c podweft.Change) bool { return c.Err != nil })...)
	}
}

// compare reads the table and lists what is to be changed.
func (k *keeper) compare(ctx context.Context, latest func() (*table, error)) ([]step, error) {
	have, err := k.read(ctx)
	if err != nil {
		return nil, err
	}
	want, err := latest()
	if err != nil {
		return nil, err
	}
	steps := compare(k.name, have, want)
	if len(steps) > 0 && have != nil && have.owner != 0 {
		return []step{{Change: nft.OwnedByOther(nft.TableInfo{Table: k.name, Owner: have.owner})}}, nil
	}
	return steps, nil
}

// read reads the table; nil is none. One that disappears meanwhile is none, too.
func (k *keeper) read(ctx context.Context) (*table, error) {
	t, err := k.readTable(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return t, err
}

func (k *keeper) readTable(ctx context.Context) (*table, error) {
	info, err := k.conn.Table(ctx, k.name)
	if err != nil {
		return nil, err
	}
	t := &table{flags: info.Flags, owner: info.Owner, elements: map[nft.Set][]nft.Element{}}
	if t.chains, err = k.conn.Chains(ctx, k.name); err != nil {
		return nil, err
	}
	if t.rules, err = k.conn.Rules(ctx, k.name); err != nil {
		return nil, err
	}
	if t.sets, err = k.conn.Sets(ctx, k.name); err != nil {
		return nil, err
	}
	for _, s := range t.sets {
		if t.elements[s], err = k.conn.Elements(ctx, s); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// moved reports whether err is what one gets for changing something that has gone or come since it was read.
func moved(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST)
}

func (k *keeper) report(ctx context.Context, plan podweft.Plan) {
	if !k.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	for _, c := range plan {
		k.log.DebugContext(ctx, "table changed", "op", c.Op.String(), "object", c.Object.String(), "err", c.Err)
	}
}
