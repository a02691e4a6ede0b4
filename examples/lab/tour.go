package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/vxlan"
)

// tour builds a cluster and says in a person's words what happens, while it happens.
type tour struct {
	out     printer
	o       options
	c       *cluster
	step    int
	began   time.Time
	timings timings
	matrix  *matrix
	hops    []hop
	lost    error // why the packet could not be followed to its end

	policyReports []policyReport
	broken        error // where the kernel does not do what policies say
	tenantReports []tenantReport
	mixed         error // which tenant does not reach its own, or reaches others'
}

func newTour(o options, c *cluster) *tour {
	return &tour{o: o, c: c, out: newPrinter(o), began: time.Now()}
}

// take makes the whole tour. Pings that fail are its matter, not its error.
func (t *tour) take(ctx context.Context) error {
	t.welcome()
	for _, part := range []struct {
		took *milliseconds
		run  func(context.Context) error
	}{
		{&t.timings.Underlay, t.underlay},
		{&t.timings.Join, t.join},
		{&t.timings.Pods, t.pods},
		{&t.timings.Matrix, t.ping},
		{&t.timings.Trace, t.trace},
		{&t.timings.Policy, t.policies},
		{&t.timings.Tenants, t.tenants},
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		began := time.Now()
		if err := part.run(ctx); err != nil {
			return err
		}
		*part.took = since(began)
	}
	t.timings.Total = since(t.began)
	return nil
}

func (t *tour) welcome() {
	t.out.printf("%s  %d nodes, %d pods on each, backend %s\n", t.out.paint(bold, "A pod network on your machine"),
		t.o.nodes, t.o.pods, t.c.network.Backend.Type)
	t.out.printf("%s\n", t.out.paint(dim,
		"No root is needed and the host's network is not touched: each machine below is a network namespace,\n"+
			"and all of them end with this program."))
}

// begin starts a chapter.
func (t *tour) begin(title string) {
	t.step++
	t.out.printf("\n%s\n", t.out.paint(bold, fmt.Sprintf("%d. %s", t.step, title)))
}

func (t *tour) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	for line := range strings.Lines(text) {
		t.out.printf("%s\n", strings.TrimRight("   "+line, " \n"))
	}
}

// underlay is chapter 1.
func (t *tour) underlay(context.Context) error {
	t.begin("The underlay: machines and a switch between them")
	t.say("Each node has an eth0 on the switch. The machine outside stands for the rest of the world: it knows\n" +
		"the way to the nodes, and has never heard of pods.")
	began := time.Now()
	if err := t.c.buildUnderlay(t.o.nodes); err != nil {
		return err
	}
	var machines table
	machines.head("machine", "addresses")
	for _, m := range t.c.machines() {
		machines.row(cell{m.Name, plain}, cell{join(m.Addrs()), cyan})
	}
	t.print(abridge(machines, mostRows))
	t.done(began, "built")
	return nil
}

// join is chapters 2 and 3. The last node joins by itself, so that its dry run shows all that a node does.
func (t *tour) join(ctx context.Context) error {
	last := len(t.c.members) - 1
	t.begin("Leases: every node claims a subnet for its pods")
	t.say("Its agent asks the store for a free subnet of %s, and publishes how\n"+
		"other nodes reach it. %s", t.networks(), t.o.keeps())
	began := time.Now()
	if t.o.store == storeEtcd {
		if err := t.c.startEtcd(ctx); err != nil {
			return err
		}
	}
	if err := t.c.join(ctx, t.c.members[:last]...); err != nil {
		return err
	}
	if err := t.c.join(ctx, t.c.members[last]); err != nil {
		return err
	}
	t.print(abridge(t.c.leaseTable(), mostRows))
	t.done(began, "every node knows every other")

	t.begin("The overlay: compare what should be with what is, write the difference")
	return t.overlay(ctx, t.c.members[last])
}

func (t *tour) overlay(ctx context.Context, m *member) error {
	t.say("Everybody's leases are compiled into a Spec, and a driver makes the kernel agree with it.\n"+
		"This is the dry run (%s) of %s, which joined last, on its untouched kernel.\n", t.o.dryRun(), m.machine.Name)
	if t.c.network.Backend.Type == vxlan.Type {
		t.say("%s", t.out.paint(dim, "(The device names are flannel's: its nodes and these understand each other.)"))
	}
	t.out.printf("\n")
	t.plan(m.backend.first())
	again, err := m.backend.again(ctx)
	if err != nil {
		return err
	}
	if len(again) > 0 {
		t.say("\n%s applied, and yet the kernel differs again:\n\n", t.out.paint(red, "✗"))
		t.plan(again)
		return nil
	}
	tick := t.out.paint(green, "✓")
	t.say("\n%s applied; asked again, Plan has nothing to say: the kernel agrees", tick)
	if len(t.c.members) == 1 {
		return nil // nobody to have a route to
	}
	route, took, err := breakRoute(ctx, m, t.c.members[0])
	if err != nil {
		return err
	}
	t.say("%s and kept so: the lab deleted the route %s,\n  and a podweft.Loop put it back %s", tick, route, t.out.paint(dim, "in "+round(took)))
	return nil
}

// mostAlike is how many changes of a kind are shown one after the other.
const mostAlike = 6

func (t *tour) plan(plan podweft.Plan) {
	for len(plan) > 0 {
		same := alike(plan)
		plan = plan[len(same):]
		shown := same
		if len(same) > mostAlike+1 { // a line that says that one is left out would be no gain
			shown = same[:mostAlike]
		}
		for _, change := range shown {
			sign, rest, _ := strings.Cut(change.String(), " ")
			t.say("  %s %s", t.out.paint(map[string]style{"+": green, "-": red}[sign], sign), rest)
		}
		if left := len(same) - len(shown); left > 0 {
			t.say("    %s", t.out.paint(dim, fmt.Sprintf("... %d more of these", left)))
		}
	}
}

// alike are the first changes of a plan that are all of one kind: links, neighbours, routes.
func alike(plan podweft.Plan) podweft.Plan {
	kind := func(c podweft.Change) string {
		first, _, _ := strings.Cut(c.Object.ID(), " ")
		return first
	}
	for i, c := range plan {
		if kind(c) != kind(plan[0]) {
			return plan[:i]
		}
	}
	return plan
}

// pods is chapter 4.
func (t *tour) pods(ctx context.Context) error {
	t.begin("Pods: an address from the node's subnet, a port on the node's bridge")
	t.say("Package ipam chooses the addresses. Package bridge lays the cable, a veth pair: one end is the pod's\n" +
		"eth0, the other a port of the node's bridge cni0, whose own address is the pod's gateway.")
	began := time.Now()
	if err := t.c.attachPods(ctx, t.o.pods); err != nil {
		return err
	}
	t.print(abridge(t.c.podTable(), mostRows))
	t.done(began, "attached")
	return nil
}

// ping is chapter 5.
func (t *tour) ping(ctx context.Context) error {
	t.matrix = newMatrix(t.c, t.o.sample)
	t.begin("Does everybody reach everybody?")
	if t.matrix.pairs < t.matrix.all {
		t.say("Of the %d pairs of pods %d are pinged, evenly chosen (--sample).", t.matrix.all, t.matrix.pairs)
	} else {
		t.say("Every pod pings every other.")
	}
	t.say("And each pings the machine outside, which knows of no pods: their node lends them its own address\n" +
		"(masquerade, one nftables table on each node).")
	if t.c.crowded() {
		t.say("%s", t.out.paint(dim, "So many pods on one kernel have more neighbours than its table holds; the lab introduces them to each\n"+
			"other, where others would ask by ARP and NDP."))
		if err := t.c.introduce(); err != nil {
			return fmt.Errorf("introduce neighbours: %w", err)
		}
	}
	if err := t.matrix.send(ctx); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	t.out.printf("\n")
	t.matrix.picture().print(t.out, "   ")
	t.answers()
	return nil
}

// mostFailures are listed one by one.
const mostFailures = 5

func (t *tour) answers() {
	failed := t.matrix.failed()
	mark := t.out.paint(green, "✓")
	if len(failed) > 0 {
		mark = t.out.paint(red, "✗")
	}
	sent := len(t.matrix.pings)
	t.say("\n%s %d of %d pings answered, half of them within %s", mark, sent-len(failed), sent, round(t.matrix.median()))
	for i, p := range failed {
		if i == mostFailures {
			t.say("  %s", t.out.paint(dim, fmt.Sprintf("... %d more", len(failed)-i)))
			break
		}
		t.say("  %s", p.err)
	}
}

// trace is chapter 6.
func (t *tour) trace(ctx context.Context) error {
	from, to := t.farthest()
	if to == nil {
		return nil // a single pod
	}
	dst := to.addresses[0]
	t.begin(fmt.Sprintf("One packet's way: %s on %s to %s on %s", from.name, from.on.machine.Name, to.name, to.on.machine.Name))
	t.say("From %s to %s. Each entry was read from the kernel that decides by it;\n"+
		"on the links marked ✓ an echo request was then seen to pass.", address(from.addresses, dst), dst)
	t.hops, t.lost = t.c.trace(ctx, from, to, dst)
	t.out.printf("\n")
	printHops(t.out, "   ", t.hops)
	if t.lost != nil {
		t.say("\n%s the packet's way is not clear: %s", t.out.paint(red, "✗"), t.lost)
	}
	return ctx.Err()
}

// verdict is nil if everything was as it should be.
func (t *tour) verdict() error {
	lost := t.lost
	if lost != nil {
		lost = fmt.Errorf("follow a packet: %w", lost)
	}
	return errors.Join(t.matrix.verdict(), lost, t.broken, t.mixed)
}

// farthest are the first pod and the last, on different nodes if there is more than one; to is nil if there is one pod.
func (t *tour) farthest() (from, to *pod) {
	pods := slices.Collect(t.c.pods())
	if len(pods) < 2 {
		return pods[0], nil
	}
	return pods[0], pods[len(pods)-1]
}

// next is what to do after the tour.
func (t *tour) next() {
	t.begin("What next?")
	const run = "go run ./examples/lab"
	list(t.out, "   ", [][2]string{
		{run + " --keep", "a shell inside: break something and watch it being repaired"},
		{run + " --nodes 30 --pods 3", "more of everything"},
		{run + " --backend host-gw", "the same without a tunnel"},
		{run + " --backend udp", "the same where the kernel has no tunnels"},
		{run + " --net-conf FILE", "your own net-conf.json"},
		{run + " --policy FILE", "who may call whom with your NetworkPolicies, and why"},
		{run + " --tenants 2", "besides, two networks with the same addresses"},
		{run + " --store etcd --keep", "agents that are processes of their own: kill one"},
		{run + " --json", "for scripts"},
	})
	t.say("\nIts source is meant to be read; begin with examples/lab/cluster.go.")
	t.say("%s", t.out.paint(dim, fmt.Sprintf("The tour took %s and leaves nothing behind.", round(time.Since(t.began)))))
}

func (t *tour) done(began time.Time, what string) {
	t.say("%s %s %s", t.out.paint(green, "✓"), what, t.out.paint(dim, "in "+round(time.Since(began))))
}

func (t *tour) print(rows table) {
	t.out.printf("\n")
	rows.print(t.out, "   ")
	t.out.printf("\n")
}

func (t *tour) networks() string {
	var on []string
	for _, r := range []subnet.Range{t.c.network.V4, t.c.network.V6} {
		if !r.IsZero() {
			on = append(on, r.Network.String())
		}
	}
	return strings.Join(on, " and ")
}

// round is a duration as people say it.
func round(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
