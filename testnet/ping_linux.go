package testnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// Echo says what an echo request looks like. Its zero value is what Ping sends.
type Echo struct {
	// From is the source address; the zero Addr leaves the choice to the kernel.
	From netip.Addr
	// Size of the whole IP packet in bytes; 0 means 84 for IPv4 and 104 for IPv6, as the ping program does.
	Size int
	// DontFragment makes it an error, EMSGSIZE, when the packet does not fit through a link on its way. Routers never
	// fragment IPv6; there it keeps this node from doing it.
	DontFragment bool
}

// patience is how long an answer is awaited by a caller who set no deadline.
const patience = 5 * time.Second

// Pinger sends echo requests (ICMP and ICMPv6) from one node and matches the answers. It is safe for concurrent use and
// made for it: thousands of calls may be under way at once.
type Pinger struct {
	node   string
	v4, v6 *echoSocket
}

// Pinger opens a Pinger that sends from the node. It must be closed.
func (n *Node) Pinger() (*Pinger, error) {
	p := &Pinger{node: n.Name}
	err := n.Do(func() (err error) {
		if p.v4, err = openEchoSocket(icmp4{}); err != nil {
			return err
		}
		p.v6, err = openEchoSocket(icmp6{})
		if errors.Is(err, unix.EAFNOSUPPORT) { // a kernel without IPv6
			err = nil
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(opError("open", "ICMP socket in "+n.Name, err), p.Close())
	}
	return p, nil
}

// Close frees the sockets. Calls that still wait for an answer end with net.ErrClosed.
func (p *Pinger) Close() error {
	var errs []error
	for _, s := range []*echoSocket{p.v4, p.v6} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// Ping sends one echo request and returns how long the answer took; see Echo.
func (p *Pinger) Ping(ctx context.Context, to netip.Addr) (time.Duration, error) {
	return p.Echo(ctx, to, Echo{})
}

// Echo sends one echo request, never a second, and returns how long the answer took. It waits until ctx ends, or 5 s if ctx
// has no deadline. The error is a [*podweft.OpError]. In it, context.DeadlineExceeded means that nothing came back; an
// errno is the word of the kernel or of a router on the way: EHOSTUNREACH, ENETUNREACH, EMSGSIZE, EACCES for a firewall.
func (p *Pinger) Echo(ctx context.Context, to netip.Addr, e Echo) (time.Duration, error) {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	to = to.Unmap()
	s := p.v4
	if to.Is6() {
		s = p.v6
	}
	var rtt time.Duration
	err := error(unix.EAFNOSUPPORT)
	if s != nil {
		rtt, err = s.echo(ctx, to, e)
	}
	if err != nil {
		return 0, &podweft.OpError{Op: "ping", Object: podweft.Named(fmt.Sprintf("%s from %s", to, p.node)), Err: err}
	}
	return rtt, nil
}

// Ping sends one echo request from the node and returns how long the answer took; see [Pinger.Echo]. Whoever sends many
// opens a [Node.Pinger].
func (n *Node) Ping(ctx context.Context, to netip.Addr) (time.Duration, error) {
	return n.Echo(ctx, to, Echo{})
}

// Echo is Ping with a choice of what is sent.
func (n *Node) Echo(ctx context.Context, to netip.Addr, e Echo) (rtt time.Duration, err error) {
	p, err := n.Pinger()
	if err != nil {
		return 0, err
	}
	defer p.Close()
	return p.Echo(ctx, to, e)
}
