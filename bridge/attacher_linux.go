package bridge

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// ownNetNS is the calling thread's.
const ownNetNS = "/proc/thread-self/ns/net"

// Attacher attaches pods to bridges of one node. It keeps no state but its sockets: what was attached is in the kernel, and
// any Attacher of the same owner can detach it. It is safe for concurrent use.
type Attacher struct {
	node  space
	ns    os.FileInfo // the node's namespace
	owner string
	mark  string
	adopt bool
	log   *slog.Logger
}

// New opens the attacher's sockets. It changes nothing in the kernel.
func New(cfg Config) (*Attacher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	ns, err := os.Stat(cmp.Or(cfg.NetNS, ownNetNS))
	if err != nil {
		return nil, &podweft.OpError{Op: "open", Object: podweft.Named("network namespace"), Err: err}
	}
	conn, err := nl.Dial(cfg.NetNS)
	if err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	owner := cmp.Or(cfg.Owner, DefaultOwner)
	return &Attacher{node: space{conn, cfg.NetNS}, ns: ns, owner: owner, mark: markOf(owner), adopt: cfg.Adopt, log: log}, nil
}

// Close frees the attacher's sockets. Bridges and ports stay.
func (a *Attacher) Close() error { return a.node.conn.Close() }

// Attach makes b as it should be and gives the pod of p its port. When it returns, packets flow. When it fails it leaves
// nothing behind but the bridge.
//
// A port that is attached already stays as it is; what an Attach that was killed did not come to, or what somebody took
// away since, is completed. Anything in its place that is not this port, or not like p, is left alone: the error is then
// [podweft.ErrConflict] and names it. Other errors are [podweft.ErrInvalid] for values that make no sense, and an
// [*podweft.OpError] with the kernel's word.
func (a *Attacher) Attach(ctx context.Context, b Bridge, p Port) (Attached, error) {
	b = b.withDefaults()
	p = p.withDefaults(a.owner, b)
	if err := errors.Join(b.Validate(), p.Validate()); err != nil {
		return Attached{}, err
	}
	if err := p.fits(b); err != nil {
		return Attached{}, err
	}
	at, err := a.attach(ctx, b, p)
	if err != nil {
		return Attached{}, fmt.Errorf("port %s/%s: %w", p.Container, p.Name, err)
	}
	return at, nil
}

func (a *Attacher) attach(ctx context.Context, b Bridge, p Port) (at Attached, err error) {
	ns, err := a.openPod(p)
	if err != nil {
		return at, err
	}
	entered := make(chan error, 1) // entering takes a thread of its own anyway
	pod := &pod{file: ns}
	go func() { entered <- pod.dial(p.NetNS) }()
	br, err := a.converge(ctx, b)
	err = errors.Join(err, <-entered)
	defer pod.close()
	if err != nil {
		return at, err
	}
	v := a.veth(b, br, p)
	made, err := v.plug(ctx, a.node, pod)
	if errors.Is(err, podweft.ErrConflict) || errors.Is(err, unix.EEXIST) {
		if free, failed := a.exhume(ctx, v, pod); failed != nil {
			err = failed
		} else if free {
			made, err = v.plug(ctx, a.node, pod)
		}
	}
	if err == nil {
		at, err = a.connect(ctx, v, pod, made)
	}
	if err != nil && made {
		err = errors.Join(err, a.undo(context.WithoutCancel(ctx), v.host))
	}
	return at, err
}

// undo deletes a pair that was just made.
func (a *Attacher) undo(ctx context.Context, host nl.Link) error {
	_, err := a.unplug(ctx, host, a.delete)
	return err
}

// connect makes the pair of a port work.
func (a *Attacher) connect(ctx context.Context, v *veth, pod *pod, made bool) (at Attached, err error) {
	want := v.setup()
	lacking := want
	if !made {
		if lacking, err = pod.missing(ctx, want); err != nil {
			return at, err
		}
	}
	if err := a.node.do(ctx, v.hostSteps()...); err != nil {
		return at, err
	}
	err = pod.do(ctx, lacking.steps()...)
	if errors.Is(err, unix.EEXIST) { // another link's route, or somebody attaches the same port at this moment
		if lacking, err = pod.missing(ctx, want); err == nil {
			err = pod.do(ctx, lacking.steps()...)
		}
	}
	if err != nil {
		return at, err
	}
	if at, err = v.ready(ctx, a.node, pod.space); err != nil {
		return at, err
	}
	if made {
		a.log.DebugContext(ctx, "port attached", "link", v.host.Name, "container", v.port.Container, "netns", v.port.NetNS)
	}
	return at, nil
}

func asLink(l nl.Link) Link { return Link{Index: l.Index, Name: l.Name, MAC: l.MAC, MTU: l.MTU} }

// Detach removes the port that p.Container and p.Name identify; everything else in p may be missing, but for a HostName of
// one's own. A port that is gone, or whose pod's namespace is, is success. A link in its place that does not bear its mark
// stays, and is [podweft.ErrConflict].
//
// It waits for the kernel, about 20 ms.
//
// With Config.Adopt it looks into p.NetNS too, if that is given and there and this package made no port, for an end that
// another plugin made.
func (a *Attacher) Detach(ctx context.Context, p Port) error {
	return a.remove(ctx, p, a.delete)
}

// pull deletes a pod's end that somebody else made.
func (a *Attacher) pull(ctx context.Context, p Port) error {
	pod, err := a.enter(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer pod.close()
	have, err := pod.conn.Link(p.Name)
	if errors.Is(err, nl.ErrNoLink) || err == nil && have.Kind != "veth" {
		return nil
	}
	if err != nil {
		return err
	}
	return pod.do(ctx, step{
		op: "delete", object: "link " + have.Name, request: func(b *nl.Batch) { b.DeleteLink(have.Index) }, fine: unix.ENODEV,
	})
}

// unplug takes the pair with that host end, and reports whether there was one.
func (a *Attacher) unplug(ctx context.Context, host nl.Link, take func(context.Context, nl.Link) error) (found bool, err error) {
	have, err := a.node.conn.Link(host.Name)
	switch {
	case errors.Is(err, nl.ErrNoLink):
		return false, nil
	case err != nil:
		return false, err
	case !ours(have, host):
		return true, &podweft.OpError{Op: "delete", Object: podweft.Named("link " + host.Name), Err: conflict(have)}
	}
	if err = take(ctx, have); err == nil {
		a.log.DebugContext(ctx, "port detached", "link", host.Name)
	}
	return true, err
}

func (a *Attacher) delete(ctx context.Context, have nl.Link) error {
	return a.node.do(ctx, step{
		op: "delete", object: "link " + have.Name, request: func(b *nl.Batch) { b.DeleteLink(have.Index) }, fine: unix.ENODEV,
	})
}

// Teardown removes all bridges and ports that bear the owner's mark. Pods lose their links.
func (a *Attacher) Teardown(ctx context.Context) error {
	all, err := a.marked(ctx, "veth", "bridge")
	if err != nil {
		return err
	}
	return a.deleteAll(ctx, all)
}

// marked lists the links of these kinds that bear the owner's mark.
func (a *Attacher) marked(ctx context.Context, kinds ...string) (all []nl.Link, err error) {
	for _, kind := range kinds {
		links, err := a.node.conn.LinksOfKind(ctx, kind)
		if err != nil {
			return nil, err
		}
		for _, l := range links {
			if bears(l.Alias, a.mark) {
				all = append(all, l)
			}
		}
	}
	return all, nil
}

// Ports lists the owner's ports on this node: for each what identifies it, and HostName.
func (a *Attacher) Ports(ctx context.Context) ([]Port, error) {
	links, err := a.marked(ctx, "veth")
	var ports []Port
	for _, l := range links {
		rest := strings.TrimPrefix(l.Alias, a.mark+"/")
		if at := strings.LastIndexByte(rest, '/'); at > 0 {
			ports = append(ports, Port{Container: rest[:at], Name: rest[at+1:], HostName: l.Name})
		}
	}
	return ports, err
}

// DetachAll is Detach of many ports, for which the kernel waits once: a thousand take a tenth of what one by one would.
func (a *Attacher) DetachAll(ctx context.Context, ports []Port) error {
	var all []nl.Link
	var errs []error
	for _, p := range ports {
		p = p.withDefaults(a.owner, Bridge{})
		var c checker
		if c.identity(p); c.errs != nil {
			errs = append(errs, c.errs...)
			continue
		}
		want := a.hostEnd(p)
		have, err := a.node.conn.Link(want.Name)
		switch {
		case errors.Is(err, nl.ErrNoLink):
		case err != nil:
			errs = append(errs, err)
		case !ours(have, want):
			errs = append(errs, &podweft.OpError{Op: "delete", Object: podweft.Named("link " + want.Name), Err: conflict(have)})
		default:
			all = append(all, have)
		}
	}
	return errors.Join(append(errs, a.deleteAll(ctx, all))...)
}

// deleteAll deletes links in one go, for the kernel waits about 20 ms whenever it has deleted something.
func (a *Attacher) deleteAll(ctx context.Context, all []nl.Link) error {
	if len(all) == 0 {
		return nil
	}
	group := randomGroup()
	steps := make([]step, 0, len(all)+1)
	for _, l := range all {
		steps = append(steps, step{
			op: "delete", object: "link " + l.Name, request: func(b *nl.Batch) { b.SetGroup(l.Index, group) }, fine: unix.ENODEV,
		})
	}
	steps = append(steps, step{
		op: "delete", object: "links of " + a.mark, request: func(b *nl.Batch) { b.DeleteGroup(group) }, fine: unix.ENODEV,
	})
	if err := a.node.do(ctx, steps...); err != nil {
		return err
	}
	a.log.DebugContext(ctx, "links deleted", "mark", a.mark, "count", len(all))
	return nil
}

// randomGroup is a link group that nobody else has: people number theirs from 0.
func randomGroup() uint32 {
	var b [4]byte
	rand.Read(b[:]) // never fails: crypto/rand's documentation
	return binary.NativeEndian.Uint32(b[:]) | 1<<31
}
