package udp

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// path is the packet path: the ports, and the workers that move packets between them.
type path struct {
	tables  tables
	limit   *limiter
	total   counters
	changed chan struct{} // size 1: there are other ports
	broken  atomic.Bool   // a port has failed; it has to be opened anew
	waiting atomic.Int32  // who wants to change the ports
	gate    *gate

	// mu is held by the workers while they work, and by whoever changes the ports. A descriptor is never closed while a worker may
	// use its number.
	mu      sync.Mutex
	device  *device
	sockets [2]sockets // by family: IPv4, IPv6
	closed  bool
}

// change has the workers stop, and calls fn, which may change the ports.
func (p *path) change(fn func()) {
	p.waiting.Add(1)
	p.gate.interrupt()
	p.mu.Lock()
	fn()
	p.waiting.Add(-1)
	p.mu.Unlock()
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// closePorts closes all; the workers have stopped.
func (p *path) closePorts() error {
	errs := []error{p.device.close()}
	for _, s := range p.sockets {
		errs = append(errs, s.close())
	}
	p.device, p.sockets = nil, [2]sockets{}
	return errors.Join(errs...)
}

// afterFailure is the rest after a port has failed, so that one that fails at once does not keep the processor busy.
const afterFailure = 50 * time.Millisecond

// run works until ctx ends. failed is called when a port has failed.
func (p *path) run(ctx context.Context, failed func()) error {
	for ctx.Err() == nil {
		err := p.work(ctx)
		switch {
		case errors.Is(err, os.ErrClosed):
			return err
		case err != nil:
			p.broken.Store(true)
			failed()
			select {
			case <-ctx.Done():
			case <-time.After(afterFailure):
			}
		}
		select {
		case <-ctx.Done():
		case <-p.changed:
		}
	}
	return nil
}

// work runs the workers until ctx ends, the ports are to be changed or one fails, which is its error.
func (p *path) work(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return os.ErrClosed
	}
	if p.device == nil || p.broken.Load() {
		return nil
	}
	p.gate.resume()
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		p.gate.interrupt()
		close(interrupted)
	})
	defer func() {
		if !stop() {
			<-interrupted // or it would hit those who work next
		}
	}()
	if p.waiting.Load() > 0 || ctx.Err() != nil { // too late for the interruption
		return nil
	}
	workers := p.workers()
	ended := make(chan error)
	for _, w := range workers {
		go func() { ended <- w.run() }()
	}
	var failure error
	for range workers {
		if err := <-ended; err != nil && !errors.Is(err, errInterrupted) {
			failure = errors.Join(failure, err)
		}
		p.gate.interrupt() // one has ended, and so do all
	}
	return failure
}

// workers are one for each queue of the TUN link, with the sockets that go with it.
func (p *path) workers() (all []*worker) {
	for n, q := range p.device.queues {
		w := &worker{interrupted: p.gate.closed.Load}
		ports := []unix.PollFd{p.gate.entry(), readable(q.fd)}
		var out [2]socketPort
		var whole [2]bool
		for f, s := range p.sockets {
			if n < len(s) {
				out[f], whole[f] = s[n], !s[n].cuts
				w.pumps = append(w.pumps, newInbound(s[n], q, &p.tables, p.device.takes, &p.total))
				ports = append(ports, readable(s[n].fd))
			}
		}
		o := newOutbound(q, out, &p.tables, p.limit, &p.total)
		o.whole = whole
		w.pumps = append(w.pumps, o)
		w.wait = func() error { return p.gate.await(ports) }
		all = append(all, w)
	}
	return all
}

// sockets are those of one address: one for each queue. The kernel sends all of a peer's datagrams to the same one.
type sockets []*udpSocket

func (s sockets) close() error {
	var errs []error
	for _, one := range s {
		errs = append(errs, one.close())
	}
	return errors.Join(errs...)
}

// at is the address, or the zero AddrPort.
func (s sockets) at() netip.AddrPort {
	if len(s) == 0 {
		return netip.AddrPort{}
	}
	return s[0].local
}
