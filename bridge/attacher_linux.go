package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/podweft/podweft/internal/cable"
	"github.com/podweft/podweft/internal/nl"
)

// Attacher attaches pods to bridges of one node. It keeps no state but its sockets: what was attached is in the kernel, and
// any Attacher of the same owner can detach it. It is safe for concurrent use.
type Attacher struct {
	node  *cable.Node
	adopt bool
}

// New opens the attacher's sockets. It changes nothing in the kernel.
func New(cfg Config) (*Attacher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	node, err := cable.OpenNode(cfg.NetNS, cmp.Or(cfg.Owner, DefaultOwner), cfg.Logger)
	if err != nil {
		return nil, err
	}
	return &Attacher{node: node, adopt: cfg.Adopt}, nil
}

// Close frees the attacher's sockets. Bridges and ports stay.
func (a *Attacher) Close() error { return a.node.Close() }

// Attach makes b as it should be and gives the pod of p its port. When it returns, packets flow. When it fails it leaves
// nothing behind but the bridge.
//
// A port that is attached already stays as it is; what an Attach that was killed did not come to, or what somebody took
// away since, is completed. Anything in its place that is not this port, or not like p, is left alone: the error is then
// [podweft.ErrConflict] and names it. Other errors are [podweft.ErrInvalid] for values that make no sense, and an
// [*podweft.OpError] with the kernel's word.
//
// A CNI plugin has to refuse a second ADD: where [Attacher.Check] finds nothing wrong before, the port is there.
func (a *Attacher) Attach(ctx context.Context, b Bridge, p Port) (Attached, error) {
	b = b.withDefaults()
	p = p.withDefaults(a.node.Owner, b)
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
	pod, err := a.node.Open(p.NetNS)
	if err != nil {
		return at, err
	}
	defer pod.Close()
	br, err := a.converge(ctx, b)
	if err != nil {
		return at, err
	}
	v := a.veth(b, br, p)
	made, err := v.Plug(ctx, a.node, pod)
	if err == nil {
		at, err = a.connect(ctx, v, pod, made)
	}
	if err != nil && made {
		err = errors.Join(err, a.node.Undo(context.WithoutCancel(ctx), v.Host))
	}
	return at, err
}

// connect makes the pair of a port work.
func (a *Attacher) connect(ctx context.Context, v *veth, pod *cable.Pod, made bool) (at Attached, err error) {
	want := v.setup()
	lacking := want
	if !made {
		if lacking, err = pod.Lacking(ctx, want); err != nil {
			return at, err
		}
	}
	limit, err := v.LimitHost(ctx, a.node)
	if err != nil {
		return at, err
	}
	if err := a.node.Do(ctx, append(v.hostSteps(), limit...)...); err != nil {
		return at, err
	}
	if err := pod.Complete(ctx, want, lacking); err != nil {
		return at, err
	}
	if at, err = v.ready(ctx, a.node.Space, pod.Space); err != nil {
		return at, err
	}
	if made {
		a.node.Log.DebugContext(ctx, "port attached", "link", v.Host.Name, "container", v.port.Container, "netns", v.port.NetNS)
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
	return a.remove(ctx, p, a.node.Delete)
}

// pull deletes a pod's end that somebody else made.
func (a *Attacher) pull(ctx context.Context, p Port) error {
	pod, err := a.node.Enter(p.NetNS)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer pod.Close()
	have, err := pod.Conn.Link(p.Name)
	if errors.Is(err, nl.ErrNoLink) || err == nil && have.Kind != "veth" {
		return nil
	}
	if err != nil {
		return err
	}
	return pod.Do(ctx, cable.Delete(have))
}

// Teardown removes all bridges and ports that bear the owner's mark. Pods lose their links.
func (a *Attacher) Teardown(ctx context.Context) error {
	all, err := a.node.Marked(ctx, "veth", "bridge")
	if err != nil {
		return err
	}
	return a.node.DeleteAll(ctx, all)
}

// Ports lists the owner's ports on this node: for each what identifies it, and HostName.
func (a *Attacher) Ports(ctx context.Context) ([]Port, error) {
	ids, err := a.node.Ports(ctx)
	var ports []Port
	for _, id := range ids {
		ports = append(ports, Port{Container: id.Container, Name: id.Name, HostName: id.HostName})
	}
	return ports, err
}

// DetachAll is Detach of many ports, for which the kernel waits once: a thousand take a tenth of what one by one would.
func (a *Attacher) DetachAll(ctx context.Context, ports []Port) error {
	var all []nl.Link
	var wrong cable.Fields
	for _, p := range ports {
		p = p.withDefaults(a.node.Owner, Bridge{})
		var f cable.Fields
		if f.ID(p.id()); f.Err() != nil {
			wrong.ID(p.id())
			continue
		}
		all = append(all, a.node.HostEnd(p.id(), 0))
	}
	return errors.Join(wrong.Err(), a.node.UnplugAll(ctx, all))
}
