package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft/testnet"
)

// routedTracer follows a packet where there are no bridges: from a pod's cable to its node, which routes it, in a tunnel or without one.
// Each hop belongs to a stage of the way, so that two ways can be shown side by side.
type routedTracer struct {
	*tracer
	stages []string // of the hops
	router *testnet.Node
}

// The stages of a packet's way.
const (
	stagePod    = "pod"
	stageNode   = "node"
	stageTunnel = "tunnel"
	stageWire   = "wire"
	stageRouter = "router"
)

// stage names the stage of the hops that are new.
func (t *routedTracer) stage(name string) {
	for len(t.stages) < len(t.hops) {
		t.stages = append(t.stages, name)
	}
}

// traceRouted finds the way from a pod to another pod's address. What was found out before an error is returned with it.
func (r *racked) traceRouted(ctx context.Context, from, to *pod, dst netip.Addr) (*routedTracer, error) {
	t := &routedTracer{tracer: &tracer{c: r.cluster, from: from, to: to, src: address(from.addresses, dst), dst: dst}, router: r.racks.Router}
	// The first packet makes the kernels look for their neighbours; only then is there something to read.
	if _, err := from.machine.Ping(ctx, dst); err != nil {
		return t, err
	}
	if err := errors.Join(t.leave(), t.watch(ctx)); err != nil {
		return t, err
	}
	return t, t.unseen()
}

// leave follows the packet out of its pod.
func (t *routedTracer) leave() error {
	pod, err := openKernel(t.from.machine)
	if err != nil {
		return err
	}
	defer pod.close()
	r, err := pod.route(t.dst)
	if err != nil {
		return err
	}
	t.decision(pod, kindRoute, r.entry, "a pod knows nobody but its node, whose address is the same everywhere")
	_, entry, err := pod.neighbour(r.dev, r.next(t.dst))
	if err != nil {
		return err
	}
	t.decision(pod, kindNeighbour, entry, "the MAC of the cable's other end: nobody has to be asked")
	t.passes(t.from.machine, r.dev, "a veth: the cable between the pod and its node")
	t.stage(stagePod)

	node, err := openKernel(t.from.on.machine)
	if err != nil {
		return err
	}
	defer node.close()
	cable, err := node.peer(r.dev)
	if err != nil {
		return err
	}
	t.passes(t.from.on.machine, cable, "the cable's other end: no bridge, the node routes from here")
	return t.cross(node)
}

// cross follows the packet from its node to the other one.
func (t *routedTracer) cross(node kernel) error {
	r, err := node.route(t.dst)
	if err != nil {
		return err
	}
	t.decision(node, kindRoute, r.entry, "a block of %s, as its agent has told", t.to.on.machine.Name)
	t.stage(stageNode)
	tunnel := ""
	hop := r.next(t.dst)
	if r.dev.Type() == "vxlan" {
		tunnel = r.dev.Attrs().Name
		mac, entry, err := node.neighbour(r.dev, hop)
		if err != nil {
			return err
		}
		t.decision(node, kindNeighbour, entry, "the MAC of that node's VTEP")
		remote, entry, err := node.vxlanFDB(r.dev, mac)
		if err != nil {
			return err
		}
		t.decision(node, kindFDB, entry, "the machine behind that MAC: where the outer packet goes")
		t.passes(t.from.on.machine, r.dev, "the VTEP wraps the frame")
		hop = remote
		if r, err = node.route(remote); err != nil {
			return err
		}
		t.decision(node, kindRoute, r.entry, "the way to that machine")
		t.stage(stageTunnel)
	}
	t.passes(t.from.on.machine, r.dev, "out on the wire")
	t.stage(stageWire)
	return t.arrive(hop, r.next(hop), tunnel)
}

// arrive follows the packet to the machine with the address, by way of the router if next is another's.
func (t *routedTracer) arrive(hop, next netip.Addr, tunnel string) error {
	if hop != next {
		router, err := openKernel(t.router)
		if err != nil {
			return err
		}
		defer router.close()
		back, err := router.route(address(t.from.on.machine.Addrs(), hop))
		if err != nil {
			return err
		}
		t.passes(t.router, back.dev, "in from rack %s", back.dev.Attrs().Name[len("rack"):])
		r, err := router.route(hop)
		if err != nil {
			return err
		}
		t.decision(router, kindRoute, r.entry, "it forwards by the outer addresses")
		t.passes(t.router, r.dev, "out to the other rack")
		t.stage(stageRouter)
	}
	m := t.c.memberAt(hop)
	if m == nil {
		return fmt.Errorf("no node has the address %s", hop)
	}
	there, err := openKernel(m.machine)
	if err != nil {
		return err
	}
	defer there.close()
	eth0, err := there.link("eth0")
	if err != nil {
		return err
	}
	t.passes(m.machine, eth0, "in on the other machine")
	t.stage(stageWire)
	if tunnel != "" {
		vtep, err := there.link(tunnel)
		if err != nil {
			return err
		}
		t.passes(m.machine, vtep, "the VTEP unwraps it")
		t.stage(stageTunnel)
	}
	return t.enter(there)
}

// enter follows the packet from its node into the pod.
func (t *routedTracer) enter(node kernel) error {
	r, err := node.route(t.dst)
	if err != nil {
		return err
	}
	t.decision(node, kindRoute, r.entry, "the pod's own route: its cable")
	t.passes(t.to.on.machine, r.dev, "the node's end of it")
	t.stage(stageNode)
	pod, err := openKernel(t.to.machine)
	if err != nil {
		return err
	}
	defer pod.close()
	eth0, err := podEnd(pod, r.dev)
	if err != nil {
		return err
	}
	t.passes(t.to.machine, eth0, "%s, at last", t.to.name)
	t.stage(stagePod)
	return nil
}

func podEnd(pod kernel, cable netlink.Link) (netlink.Link, error) { return pod.peer(cable) }

// printSideBySide draws two ways, stage by stage.
func printSideBySide(p printer, indent string, left, right *routedTracer) {
	var t table
	head := func(of *routedTracer) string {
		return fmt.Sprintf("%s on %s to %s on %s", of.from.name, of.from.on.machine.Name, of.to.name, of.to.on.machine.Name)
	}
	t.row(cell{}, cell{head(left), bold}, cell{head(right), bold})
	for _, run := range inStep(left.stages, right.stages) {
		t.row()
		for i := range max(run.left[1]-run.left[0], run.right[1]-run.right[0]) {
			name := ""
			if i == 0 {
				name = run.stage
			}
			t.row(cell{name, dim}, left.cell(run.left, i), right.cell(run.right, i))
		}
	}
	t.print(p, indent)
}

// cell is hop i of a run; there may be none.
func (t *routedTracer) cell(run [2]int, i int) cell {
	if run[0]+i >= run[1] {
		return cell{}
	}
	h := t.hops[run[0]+i]
	if h.Kind == kindLink {
		if h.Seen == "" {
			return cell{h.At + " " + h.Entry + " ✗ nothing passed", red}
		}
		return cell{fmt.Sprintf("%s %s ✓ %s", h.At, h.Entry, h.Seen), green}
	}
	return cell{h.Kind + " " + h.Entry, plain}
}

// inStepRun is a stage of both ways, with the hops that each has there: from, up to.
type inStepRun struct {
	stage       string
	left, right [2]int
}

// inStep lines two ways up: a stage that only one of them has stands opposite nothing.
func inStep(left, right []string) (runs []inStepRun) {
	for l, r := 0, 0; l < len(left) || r < len(right); {
		lEnd, rEnd := runEnd(left, l), runEnd(right, r)
		switch {
		case l < len(left) && r < len(right) && left[l] == right[r]:
			runs = append(runs, inStepRun{left[l], [2]int{l, lEnd}, [2]int{r, rEnd}})
			l, r = lEnd, rEnd
		case r < len(right): // the longer way is at the right
			runs = append(runs, inStepRun{right[r], [2]int{l, l}, [2]int{r, rEnd}})
			r = rEnd
		default:
			runs = append(runs, inStepRun{left[l], [2]int{l, lEnd}, [2]int{r, r}})
			l = lEnd
		}
	}
	return runs
}

// runEnd is where the stage at i is over.
func runEnd(stages []string, i int) int {
	end := i
	for end < len(stages) && stages[end] == stages[i] {
		end++
	}
	return end
}
