package iptables

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/podweft/podweft/internal/nft"
)

// lookEvery is how often Watch looks where nobody tells.
const lookEvery = 5 * time.Second

// Watch calls changed once when it listens, and then whenever the rules may have changed, until ctx ends or the driver is closed. The
// kernel tells of rules of the nft variant at once; those of the legacy variant are read every five seconds, and sets only
// by Apply. Rules that the driver's own Apply has written look like somebody else's: the pass that follows reads everything, and
// writes nothing.
func (d *Driver) Watch(ctx context.Context, changed func()) error {
	moved := func() {
		d.moves.Add(1)
		changed()
	}
	if d.variant == NFT {
		return d.listen(ctx, moved)
	}
	return d.look(ctx, moved)
}

// listen is told by the kernel, which knows the nft variant's tables as its own. It is told of what our own iptables-restore does too,
// and cannot tell it from other people's.
func (d *Driver) listen(ctx context.Context, moved func()) error {
	conn, err := nft.Open(d.cfg.NetNS)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan error, 2)
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		go func() { results <- conn.Watch(ctx, nft.Table{Family: family, Name: "mangle"}, moved) }()
	}
	var first error
	ended := 0
	select {
	case <-d.closed:
		first = os.ErrClosed
	case first = <-results:
		ended++
	}
	cancel()
	for ; ended < 2; ended++ {
		if err := <-results; first == nil {
			first = err
		}
	}
	return first
}

// look reads the rules from time to time. What an Apply has written since is a change to it as everybody's is.
func (d *Driver) look(ctx context.Context, moved func()) error {
	clock := time.NewTicker(lookEvery)
	defer clock.Stop()
	before := d.rules(ctx)
	moved()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.closed:
			return os.ErrClosed
		case <-clock.C:
		}
		if now := d.rules(ctx); now != before && !errors.Is(ctx.Err(), context.Canceled) {
			before = now
			moved()
		}
	}
}

// rules are the rules of both families as text, without what they have counted. What cannot be read is a change too, once.
func (d *Driver) rules(ctx context.Context) string {
	var b strings.Builder
	for _, f := range families {
		saved, err := d.tools.save(ctx, f)
		if err != nil {
			b.WriteString(err.Error())
			continue
		}
		for line := range lines(saved) {
			if _, rule, ok := strings.Cut(line, "] -A "); ok {
				b.WriteString(rule)
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}
