package cable

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// ownNetNS is the calling thread's.
const ownNetNS = "/proc/thread-self/ns/net"

// Node is the node's namespace, to an owner of ports. It is safe for concurrent use.
type Node struct {
	Space
	Owner string
	Mark  string
	Log   *slog.Logger
	ns    os.FileInfo
}

// OpenNode opens sockets in the namespace at path; empty is the caller's. A nil log is silent.
func OpenNode(path, owner string, log *slog.Logger) (*Node, error) {
	ns, err := os.Stat(cmp.Or(path, ownNetNS))
	if err != nil {
		return nil, &podweft.OpError{Op: "open", Object: podweft.Named("network namespace"), Err: err}
	}
	conn, err := nl.Dial(path)
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Node{Space: Space{conn, path}, Owner: owner, Mark: MarkOf(owner), Log: log, ns: ns}, nil
}

// Close frees the sockets.
func (n *Node) Close() error { return n.Conn.Close() }

// HostEnd is the node's end of a port as it should be, but for what it is plugged into.
func (n *Node) HostEnd(id ID, mtu int) nl.Link {
	return nl.Link{Name: id.HostName, Alias: id.mark(n.Owner), Kind: "veth", MAC: id.hostMAC(n.Owner), MTU: mtu}
}

// Unplug takes the pair with that node's end, by Delete or Retire, and reports whether there was one. One that is not ours is a
// conflict.
func (n *Node) Unplug(ctx context.Context, host nl.Link, take func(context.Context, nl.Link) error) (found bool, err error) {
	have, err := n.Conn.Link(host.Name)
	switch {
	case errors.Is(err, nl.ErrNoLink):
		return false, nil
	case err != nil:
		return false, err
	case !Ours(have, host):
		return true, &podweft.OpError{Op: "delete", Object: podweft.Named("link " + host.Name), Err: Conflict(have)}
	}
	if err = take(ctx, have); err == nil {
		n.Log.DebugContext(ctx, "port detached", "link", host.Name)
	}
	return true, err
}

// Undo deletes a pair that was just made.
func (n *Node) Undo(ctx context.Context, host nl.Link) error {
	_, err := n.Unplug(ctx, host, n.Delete)
	return err
}

// Delete deletes the link with its pair. It waits for the kernel, about 20 ms.
func (n *Node) Delete(ctx context.Context, have nl.Link) error { return n.Do(ctx, Delete(have)) }

// Retire takes the link out of use, until Sweep deletes it: see [nl.Batch.Retire].
func (n *Node) Retire(ctx context.Context, have nl.Link) error {
	return n.Do(ctx, Step{
		Op: "retire", Object: "link " + have.Name, Request: func(b *nl.Batch) { b.Retire(have.Index, n.Mark) }, Fine: unix.ENODEV,
	})
}

// Sweep deletes the owner's retired links, in one go.
func (n *Node) Sweep(ctx context.Context) error {
	return n.Do(ctx, Step{
		Op: "delete", Object: "retired links of " + n.Mark,
		Request: func(b *nl.Batch) { b.DeleteGroup(nl.Graveyard(n.Mark)) }, Fine: unix.ENODEV,
	})
}

// exhume deletes the retired pair whose pod's end is in the way of a new port, and reports whether it was that.
func (n *Node) exhume(ctx context.Context, p *Pair, pod *Pod) (bool, error) {
	peer, err := pod.Conn.Link(p.Peer.Name)
	if errors.Is(err, nl.ErrNoLink) {
		return true, nil // swept meanwhile
	}
	if err != nil {
		return false, err
	}
	host, err := n.Conn.LinkAt(peer.Pair)
	// Either the other end is in a third namespace, or both were swept between these two looks: then the name is free.
	if errors.Is(err, nl.ErrNoLink) {
		now, err := pod.Conn.Link(p.Peer.Name)
		if errors.Is(err, nl.ErrNoLink) {
			return true, nil
		}
		return err == nil && now.Index != peer.Index, err
	}
	if err != nil || host.Pair != peer.Index || host.Alias != nl.RetiredAlias(n.Mark) {
		return false, err
	}
	return true, n.Delete(ctx, host)
}

// UnplugAll is Unplug of many, for which the kernel waits once.
func (n *Node) UnplugAll(ctx context.Context, hosts []nl.Link) error {
	var all []nl.Link
	var errs []error
	for _, want := range hosts {
		have, err := n.Conn.Link(want.Name)
		switch {
		case errors.Is(err, nl.ErrNoLink):
		case err != nil:
			errs = append(errs, err)
		case !Ours(have, want):
			errs = append(errs, &podweft.OpError{Op: "delete", Object: podweft.Named("link " + want.Name), Err: Conflict(have)})
		default:
			all = append(all, have)
		}
	}
	return errors.Join(append(errs, n.DeleteAll(ctx, all))...)
}

// Marked lists the links of these kinds that bear the owner's mark.
func (n *Node) Marked(ctx context.Context, kinds ...string) (all []nl.Link, err error) {
	for _, kind := range kinds {
		links, err := n.Conn.LinksOfKind(ctx, kind)
		if err != nil {
			return nil, err
		}
		for _, l := range links {
			if Bears(l.Alias, n.Mark) {
				all = append(all, l)
			}
		}
	}
	return all, nil
}

// Ports lists the owner's ports.
func (n *Node) Ports(ctx context.Context) (ids []ID, err error) {
	links, err := n.Marked(ctx, "veth")
	for _, l := range links {
		rest := strings.TrimPrefix(l.Alias, n.Mark+"/")
		if at := strings.LastIndexByte(rest, '/'); at > 0 {
			ids = append(ids, ID{Container: rest[:at], Name: rest[at+1:], HostName: l.Name})
		}
	}
	return ids, err
}

// DeleteAll deletes links in one go, for the kernel waits about 20 ms whenever it has deleted something.
func (n *Node) DeleteAll(ctx context.Context, all []nl.Link) error {
	if len(all) == 0 {
		return nil
	}
	group := randomGroup()
	steps := make([]Step, 0, len(all)+1)
	for _, l := range all {
		steps = append(steps, Step{
			Op: "delete", Object: "link " + l.Name, Request: func(b *nl.Batch) { b.SetGroup(l.Index, group) }, Fine: unix.ENODEV,
		})
	}
	steps = append(steps, Step{
		Op: "delete", Object: "links of " + n.Mark, Request: func(b *nl.Batch) { b.DeleteGroup(group) }, Fine: unix.ENODEV,
	})
	if err := n.Do(ctx, steps...); err != nil {
		return err
	}
	n.Log.DebugContext(ctx, "links deleted", "mark", n.Mark, "count", len(all))
	return nil
}

// randomGroup is a link group that nobody else has: people number theirs from 0.
func randomGroup() uint32 {
	var b [4]byte
	rand.Read(b[:]) // never fails: crypto/rand's documentation
	return binary.NativeEndian.Uint32(b[:]) | 1<<31
}

// Ours reports whether have is the link want. Its alias says so; until it has one (it is given right after a link is made)
// its MAC does, which is derived and nobody else's.
func Ours(have, want nl.Link) bool {
	return have.Kind == want.Kind && (have.Alias == want.Alias || have.Alias == "" && have.MAC == want.MAC)
}

// Conflict names the link that is in the way.
func Conflict(have nl.Link) error {
	kind, alias := have.Kind, "without an alias"
	if kind == "" {
		kind = "hardware"
	}
	if have.Alias != "" {
		alias = fmt.Sprintf("alias %q", have.Alias)
	}
	return fmt.Errorf("%w: link %s, index %d, %s, %s", podweft.ErrConflict, have.Name, have.Index, kind, alias)
}
