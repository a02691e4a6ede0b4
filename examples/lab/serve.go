package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/podweft/podweft/testnet"
)

// server answers the shell's `lab`.
type server struct {
	c    *cluster
	path string          // of its socket
	life context.Context // the lab's
	stop func()          // returns when nothing of it runs any more
}

func serve(ctx context.Context, c *cluster) (*server, error) {
	s := &server{c: c, path: filepath.Join(c.dir, "socket"), life: ctx}
	listener, err := net.Listen("unix", s.path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			running.Go(func() { s.handle(ctx, conn) })
		}
	})
	s.stop = func() {
		cancel()
		listener.Close()
		running.Wait()
	}
	return s, nil
}

func (s *server) handle(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	var r request
	if json.NewDecoder(conn).Decode(&r) != nil || len(r.Args) == 0 {
		return
	}
	_ = json.NewEncoder(conn).Encode(s.answer(ctx, r)) // if nobody waits for it any more, nobody misses it
}

// misused is an error in a command line.
type misused string

func (m misused) Error() string { return string(m) }

func (s *server) answer(ctx context.Context, r request) answer {
	var text bytes.Buffer
	out := printer{w: &text, color: r.Color}
	var a answer
	var err error
	switch verb, args := r.Args[0], r.Args[1:]; verb {
	case "exec":
		a, err = s.exec(ctx, args)
	case "ping":
		err = s.ping(ctx, out, args)
	case "trace":
		err = s.trace(ctx, out, args)
	case "policy":
		err = s.policy(ctx, out)
	case "why":
		err = s.why(out, args)
	case "agents":
		err = s.agents(out)
	case "start":
		err = s.start(ctx, out, args)
	case "label":
		err = s.label(ctx, args)
	default:
		s.show(out)
	}
	a.Text = text.String()
	if err != nil {
		var m misused
		a.Error, a.Usage = err.Error(), errors.As(err, &m)
	}
	return a
}

func (s *server) show(out printer) {
	t := s.c.podTable()
	t.print(out, "")
	if len(s.c.tenants) > 0 {
		t := s.c.tenantTable()
		out.printf("\n")
		t.print(out, "")
	}
}

// exec answers with what the asking process is to become. The command is made as for a child of this process; run by the
// asking one it has that one's terminal, working directory and environment.
func (s *server) exec(ctx context.Context, args []string) (answer, error) {
	if len(args) < 2 {
		return answer{}, misused("write lab exec NAME CMD..., with a node or pod")
	}
	machine := s.c.machine(args[0])
	if machine == nil {
		return answer{}, unknown(args[0])
	}
	cmd := machine.Command(ctx, args[1], args[2:]...)
	return answer{Path: cmd.Path, Argv: cmd.Args}, cmd.Err
}

func unknown(name string) error {
	return misused(fmt.Sprintf("there is no node or pod %q: `lab` lists them", name))
}

// ping sends one echo request in each family.
func (s *server) ping(ctx context.Context, out printer, args []string) error {
	if len(args) != 2 {
		return misused("write lab ping FROM TO, with nodes or pods")
	}
	from := s.c.machine(args[0])
	if from == nil {
		return unknown(args[0])
	}
	to, err := s.addresses(args[1])
	if err != nil {
		return err
	}
	var errs []error
	for _, addr := range to {
		rtt, err := once(ctx, from, addr)
		if err != nil {
			errs = append(errs, err)
			out.printf("%s %s %s\n", out.paint(red, "✗"), addr, "no answer")
			continue
		}
		out.printf("%s %s answered in %s\n", out.paint(green, "✓"), addr, round(rtt))
	}
	if len(errs) > 0 {
		return errors.New(oneLine(errors.Join(errs...)))
	}
	return nil
}

func once(ctx context.Context, from *testnet.Node, to netip.Addr) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	return from.Ping(ctx, to)
}

// addresses are those of a node or pod, or the one that is written out.
func (s *server) addresses(of string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(of); err == nil {
		return []netip.Addr{addr}, nil
	}
	if p := s.c.anyPod(of); p != nil {
		return p.addresses, nil
	}
	if m := s.c.machine(of); m != nil && len(m.Addrs()) > 0 {
		return m.Addrs(), nil
	}
	return nil, unknown(of)
}

// trace follows a packet between two pods.
func (s *server) trace(ctx context.Context, out printer, args []string) error {
	if len(args) < 2 || len(args) > 3 {
		return misused("write lab trace FROM TO, with two pods, and 6 for IPv6")
	}
	from, to := s.c.pod(args[0]), s.c.pod(args[1])
	for i, p := range []*pod{from, to} {
		if p == nil && s.c.anyPod(args[i]) != nil {
			return misused(fmt.Sprintf("%s is a tenant's: only packets of the lab's own network are followed", args[i]))
		}
		if p == nil {
			return misused(fmt.Sprintf("there is no pod %q: `lab` lists them", args[i]))
		}
	}
	if from == to {
		return misused("a packet from a pod to itself goes nowhere: name two pods")
	}
	dst := to.addresses[0]
	if len(args) == 3 {
		want := netip.IPv4Unspecified()
		if args[2] == "6" {
			want = netip.IPv6Unspecified()
		} else if args[2] != "4" {
			return misused("the family is 4 or 6")
		}
		if dst = address(to.addresses, want); !dst.IsValid() {
			return misused(fmt.Sprintf("the network has no %s", family(want)))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	hops, err := s.c.trace(ctx, from, to, dst)
	printHops(out, "", hops)
	return err
}
