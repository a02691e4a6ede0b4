package bridge

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// veth is a port's pair of links: as wanted, and once it is plugged as it is.
type veth struct {
	bridge     Bridge
	port       Port
	br         nl.Link // the bridge's
	host, peer nl.Link
	have       nl.Port // host as it is
}

func (a *Attacher) veth(b Bridge, br nl.Link, p Port) *veth {
	host := a.hostEnd(p)
	host.Master = br.Index
	return &veth{bridge: b, port: p, br: br, host: host, peer: nl.Link{Name: p.Name, Kind: "veth", MAC: p.MAC, MTU: p.MTU}}
}

func (a *Attacher) hostEnd(p Port) nl.Link {
	return nl.Link{
		Name: p.HostName, Alias: portMark(a.owner, p.Container, p.Name), Kind: "veth", MAC: hostMAC(a.owner, p), MTU: p.MTU,
	}
}

// plug makes the pair, or finds it, and reads it. It says whether it made it also when it then fails.
func (v *veth) plug(ctx context.Context, node space, pod *pod) (made bool, err error) {
	var b nl.Batch
	b.CreateVeth(v.host, v.peer, int(pod.file.Fd()))
	err = errors.Join(node.conn.Do(ctx, &b)...)
	if errors.Is(err, unix.EEXIST) {
		return false, v.find(ctx, node, pod)
	}
	if err != nil {
		return false, v.failed(err)
	}
	v.have, err = node.conn.Port(ctx, v.host.Name)
	v.peer.Index, v.peer.MTU = v.have.Pair, v.have.MTU
	return true, err
}

// find reads the links that keep the pair from being made. They may be the pair.
func (v *veth) find(ctx context.Context, node space, pod *pod) error {
	host, err := node.conn.Port(ctx, v.host.Name)
	if err != nil && !errors.Is(err, nl.ErrNoLink) {
		return err
	}
	peer, err := pod.conn.Link(v.peer.Name)
	if err != nil && !errors.Is(err, nl.ErrNoLink) {
		return err
	}
	if err := v.accept(host.Link, peer); err != nil {
		return v.failed(err)
	}
	v.have, v.peer.Index = host, peer.Index
	if v.peer.MTU == 0 {
		v.peer.MTU = peer.MTU
	}
	return nil
}

// accept reports why host and peer, either of which may be missing, are not the pair as wanted.
func (v *veth) accept(host, peer nl.Link) error {
	switch {
	case host.Index != 0 && !ours(host, v.host):
		return conflict(host)
	case host.Index == 0 && peer.Index != 0:
		return fmt.Errorf("%w, in %s", conflict(peer), v.port.NetNS)
	case host.Index == 0:
		return unix.EEXIST // what was there a moment ago has gone
	case peer.Index == 0, host.Pair != peer.Index, peer.Pair != host.Index:
		return fmt.Errorf("%w, the host end of this port in another namespace: detach it first", conflict(host))
	case host.Master != 0 && host.Master != v.host.Master:
		return fmt.Errorf("%w, this port on another bridge: detach it first", conflict(host))
	}
	return nil
}

func (v *veth) failed(err error) error {
	o := podweft.Named(fmt.Sprintf("link %s type veth peer %s address %s", v.port.HostName, v.port.Name, v.port.MAC))
	return &podweft.OpError{Op: "create", Object: o, Err: err}
}

// hostSteps is what the host end lacks.
func (v *veth) hostSteps() (steps []step) {
	update := func(what string, request func(*nl.Batch)) {
		steps = append(steps, step{op: "update", object: "link " + v.host.Name + " " + what, request: request})
	}
	if v.have.Alias == "" || !v.have.Up {
		update("up alias "+v.host.Alias, func(r *nl.Batch) { r.Mark(v.host) })
	}
	if v.have.Master == 0 {
		update("master "+v.bridge.Name, func(r *nl.Batch) { r.SetMaster(v.have.Index, v.host.Master) })
	}
	if v.host.MTU != 0 && v.have.MTU != v.host.MTU {
		update(fmt.Sprintf("mtu %d", v.host.MTU), func(r *nl.Batch) { r.SetMTU(v.have.Index, v.host.MTU) })
	}
	if v.have.Hairpin != v.port.Hairpin {
		update(fmt.Sprintf("hairpin %t", v.port.Hairpin), func(r *nl.Batch) { r.SetHairpin(v.host.Name, v.port.Hairpin) })
	}
	if v.have.Isolated != v.port.Isolated {
		update(fmt.Sprintf("isolated %t", v.port.Isolated), func(r *nl.Batch) { r.SetIsolated(v.host.Name, v.port.Isolated) })
	}
	if v.port.MTU < v.bridge.MTU {
		// A bridge takes the smallest MTU of its ports (br_mtu_auto_adjust in net/bridge/br_if.c), until it is given one.
		update(fmt.Sprintf("mtu of %s %d", v.bridge.Name, v.bridge.MTU), func(r *nl.Batch) { r.SetMTU(v.br.Index, v.bridge.MTU) })
	}
	return steps
}
