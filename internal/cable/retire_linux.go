package cable

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nl"
)

// Retire takes the node's end of a pair out of use without the wait of Delete, and its pair with it. Sweep deletes it.
func (n *Node) Retire(l nl.Link) Step {
	return Step{
		Op: "retire", Object: "link " + l.Name, Request: func(b *nl.Batch) { b.Retire(l.Index, n.Mark) }, Fine: unix.ENODEV,
	}
}

// Sweep deletes all links of the owner that were retired.
func (n *Node) Sweep(ctx context.Context) error {
	return n.Do(ctx, Step{
		Op: "delete", Object: "retired links of " + n.Mark,
		Request: func(b *nl.Batch) { b.DeleteGroup(nl.Graveyard(n.Mark)) }, Fine: unix.ENODEV,
	})
}

// exhume deletes the retired pair whose pod's end is in the way of a new one, and reports whether it was that.
func (p *Pair) exhume(ctx context.Context, node *Node, pod *Pod) (bool, error) {
	peer, err := pod.Conn.Link(p.Peer.Name)
	if errors.Is(err, nl.ErrNoLink) {
		return true, nil // swept meanwhile
	}
	if err != nil {
		return false, err
	}
	host, err := node.Conn.LinkAt(peer.Pair)
	if errors.Is(err, nl.ErrNoLink) {
		return false, nil
	}
	if err != nil || host.Pair != peer.Index || host.Alias != nl.RetiredAlias(node.Mark) {
		return false, err
	}
	return true, node.Do(ctx, Delete(host))
}
