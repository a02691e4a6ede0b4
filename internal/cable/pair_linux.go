package cable

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// Pair is a port's pair of links: as wanted, and once it is plugged as it is.
type Pair struct {
	Host, Peer nl.Link
	NetNS      string  // of the pod
	Ingress    Limit   // of what reaches the pod: it leaves Host
	Egress     Limit   // of what the pod sends: it leaves Peer
	Have       nl.Port // Host as it is
}

// Plug makes the pair, or finds it, and reads it. It says whether it made it also when it then fails. A retired pair gives way.
//
// It opens the sockets in the pod too, on another thread: the kernel takes longer for the pair.
func (p *Pair) Plug(ctx context.Context, node *Node, pod *Pod) (made bool, err error) {
	dialed := make(chan error, 1)
	go func() { dialed <- pod.Dial() }()
	err = p.create(ctx, node, pod)
	made = err == nil
	if failed := <-dialed; failed != nil {
		return made, failed
	}
	if made {
		return made, p.read(ctx, node)
	}
	return p.take(ctx, node, pod, err)
}

// take finds the pair that could not be made for what err says, or makes it when a retired one has given way.
func (p *Pair) take(ctx context.Context, node *Node, pod *Pod, err error) (made bool, _ error) {
	if err = p.unmade(ctx, node, pod, err); !errors.Is(err, podweft.ErrConflict) && !errors.Is(err, unix.EEXIST) {
		return false, err
	}
	free, failed := node.exhume(ctx, p, pod)
	if failed != nil {
		return false, failed
	}
	if !free {
		return false, err
	}
	if err = p.create(ctx, node, pod); err == nil {
		return true, p.read(ctx, node)
	}
	return false, p.unmade(ctx, node, pod, err)
}

func (p *Pair) create(ctx context.Context, node *Node, pod *Pod) error {
	var b nl.Batch
	b.CreateVeth(p.Host, p.Peer, int(pod.file.Fd()))
	return errors.Join(node.Conn.Do(ctx, &b)...)
}

// read reads the pair that was made.
func (p *Pair) read(ctx context.Context, node *Node) (err error) {
	p.Have, err = node.Conn.Port(ctx, p.Host.Name)
	p.Peer.Index, p.Peer.MTU = p.Have.Pair, p.Have.MTU
	return err
}

// unmade says what became of a pair that was not made for what err says: it may be there.
func (p *Pair) unmade(ctx context.Context, node *Node, pod *Pod, err error) error {
	if errors.Is(err, unix.EEXIST) {
		return p.find(ctx, node, pod)
	}
	return p.failed(err)
}

// find reads the links that keep the pair from being made. They may be the pair.
func (p *Pair) find(ctx context.Context, node *Node, pod *Pod) error {
	host, err := node.Conn.Port(ctx, p.Host.Name)
	if err != nil && !errors.Is(err, nl.ErrNoLink) {
		return err
	}
	peer, err := pod.Conn.Link(p.Peer.Name)
	if err != nil && !errors.Is(err, nl.ErrNoLink) {
		return err
	}
	if err := p.Accept(host.Link, peer); err != nil {
		return p.failed(err)
	}
	p.Have, p.Peer.Index = host, peer.Index
	if p.Peer.MTU == 0 {
		p.Peer.MTU = peer.MTU
	}
	return nil
}

// Accept reports why host and peer, either of which may be missing, are not the pair as wanted.
func (p *Pair) Accept(host, peer nl.Link) error {
	switch {
	case host.Index != 0 && !Ours(host, p.Host):
		return Conflict(host)
	case host.Index == 0 && peer.Index != 0:
		return fmt.Errorf("%w, in %s", Conflict(peer), p.NetNS)
	case host.Index == 0:
		return unix.EEXIST // what was there a moment ago has gone
	case peer.Index == 0, host.Pair != peer.Index, peer.Pair != host.Index:
		return fmt.Errorf("%w, the host end of this port in another namespace: detach it first", Conflict(host))
	case host.Master != 0 && host.Master != p.Host.Master:
		return fmt.Errorf("%w, this port on another bridge: detach it first", Conflict(host))
	}
	return nil
}

func (p *Pair) failed(err error) error {
	o := podweft.Named(fmt.Sprintf("link %s type veth peer %s address %s", p.Host.Name, p.Peer.Name, p.Peer.MAC))
	return &podweft.OpError{Op: "create", Object: o, Err: err}
}
