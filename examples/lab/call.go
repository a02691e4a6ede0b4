package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/policy"
)

// call is a connection between two pods in one family: what becomes of it, and what the policies say.
type call struct {
	from, to  *pod
	packet    policy.Packet
	seen, due policy.Verdict
	err       error // why it could not be tried
}

// deniedAfter is how long the lab waits for a connection that should not come about. One that should has answerWithin.
const deniedAfter = 300 * time.Millisecond

// calls tries a connection from every pod to every other, in every family, and compares what comes of it with what rules say. Agents
// that are processes of their own hear of what has changed a moment later, so with them it tries until nothing is disputed; what was
// seen last is returned if that never comes.
func (p *policing) calls(ctx context.Context, rules *policy.Ruleset) (calls []call, err error) {
	if p.c.racked == nil {
		return p.try(ctx, rules)
	}
	_ = await(ctx, func() bool {
		calls, err = p.try(ctx, rules)
		return err == nil && disputed(calls) == nil
	})
	return calls, err
}

// try is calls, once.
func (p *policing) try(ctx context.Context, rules *policy.Ruleset) ([]call, error) {
	var all []call
	for from := range p.c.pods() {
		for to := range p.c.pods() {
			for _, dst := range to.addresses {
				if from != to {
					all = append(all, call{from: from, to: to, packet: p.packet(from, dst)})
				}
			}
		}
	}
	slots := make(chan struct{}, atOnce)
	var workers sync.WaitGroup
	for i := range all {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		workers.Go(func() {
			defer func() { <-slots }()
			one := &all[i]
			one.due, _ = rules.Evaluate(one.packet)
			one.seen, one.err = dial(one.from, one.packet, one.due)
		})
	}
	workers.Wait()
	var errs []error
	for _, one := range all {
		errs = append(errs, one.err)
	}
	return all, errors.Join(append(errs, ctx.Err())...)
}

func (p *policing) packet(from *pod, dst netip.Addr) policy.Packet {
	return policy.Packet{Src: address(from.addresses, dst), Dst: dst, Protocol: policy.TCP, Port: p.port}
}

// dial opens a connection, and reports whether it came about.
func dial(from *pod, to policy.Packet, due policy.Verdict) (policy.Verdict, error) {
	domain, sockaddr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port), Addr: to.Dst.As16()})
	if to.Dst.Is4() {
		domain, sockaddr = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port), Addr: to.Dst.As4()}
	}
	var fd int
	err := from.machine.Do(func() (err error) {
		fd, err = unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return policy.Denied, fmt.Errorf("connect from %s: %w", from.name, err)
	}
	defer unix.Close(fd)
	wait := deniedAfter
	if due == policy.Allowed {
		wait = answerWithin
	}
	if err = unix.Connect(fd, sockaddr); err == unix.EINPROGRESS {
		err = connected(fd, wait)
	}
	switch {
	case err == nil:
		return policy.Allowed, nil
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ETIMEDOUT): // nobody has answered
		return policy.Denied, nil
	default:
		return policy.Denied, fmt.Errorf("connect from %s to %s: %w", from.name, to.Dst, err)
	}
}

// connected waits for what becomes of a connection that has begun. It is EAGAIN when nothing does in that time. A signal, which Go's
// scheduler sends too, ends no more than one turn (connect(2) and poll(2), EINTR).
func connected(fd int, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	for {
		left := unix.NsecToTimespec(max(0, int64(time.Until(deadline))))
		ready, err := unix.Ppoll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, &left, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case ready == 0:
			return unix.EAGAIN
		}
		errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || errno == 0 {
			return err
		}
		return unix.Errno(errno)
	}
}

// disputed are the calls of which the kernel thinks otherwise than the policies.
func disputed(calls []call) error {
	var errs []error
	for _, one := range calls {
		if one.seen != one.due {
			errs = append(errs, fmt.Errorf("%s is %s, and should be %s", one.packet, one.seen, one.due))
		}
	}
	return errors.Join(errs...)
}

// printCalls draws who may call whom: who calls is at the left.
func printCalls(out printer, indent string, calls []call) {
	fields := map[[2]*pod]*[2]int{} // denied, allowed
	var pods []*pod
	for _, one := range calls {
		if !slices.Contains(pods, one.from) {
			pods = append(pods, one.from)
		}
		pair := [2]*pod{one.from, one.to}
		if fields[pair] == nil {
			fields[pair] = new([2]int)
		}
		fields[pair][one.seen]++
	}
	t := table{rows: [][]cell{{{}}}}
	for _, p := range pods {
		t.rows[0] = append(t.rows[0], cell{shorten(p.name), dim})
	}
	for _, from := range pods {
		row := []cell{{from.name, plain}}
		for _, to := range pods {
			row = append(row, field(fields[[2]*pod{from, to}]))
		}
		t.row(row...)
	}
	t.print(out, indent)
	out.printf("\n%s%s\n", indent, out.paint(dim, "● allowed   ✗ denied   ◐ in one family only"))
}

func field(counts *[2]int) cell {
	switch {
	case counts == nil:
		return cell{"·", dim}
	case counts[policy.Denied] == 0:
		return cell{"●", green}
	case counts[policy.Allowed] == 0:
		return cell{"✗", red}
	}
	return cell{"◐", yellow}
}
