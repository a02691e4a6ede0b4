package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/kube/netpol"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/testnet"
)

const rackedUsage = `Usage: lab --network calico [flags]

Builds a pod network as Calico makes it: two racks with a router between them, blocks of addresses, BGP, routed pods, VXLAN from rack
to rack, and policies that are in force before a pod's first packet. As an ordinary user; nothing is left behind.

      --nodes N          machines in each rack (2)
      --pods N           pods on each of them (1)
      --routes SOURCE    where the way to other nodes comes from: bgp or store (bgp)
      --vxlan MODE       when packets are wrapped up: CrossSubnet or Always (CrossSubnet)
      --policy FILE...   who may call whom with these NetworkPolicies in force, rather than with the lab's own (YAML)
      --keep             stay up after the tour, with a shell inside
      --no-color         plain text on a terminal too, as with NO_COLOR=1
`

// The sources of routes.
const (
	routesByBGP   = "bgp"
	routesByStore = "store"
)

// rackedOptions are what the command line asks for.
type rackedOptions struct {
	nodes, pods   int
	routes, vxlan string
	policies      *script // nil if none were named
	keep, color   bool
}

// isRacked reports whether the command line asks for --network calico.
func isRacked(args []string) bool {
	i := slices.IndexFunc(args, func(a string) bool { return strings.TrimLeft(a, "-") == "network" && strings.HasPrefix(a, "-") })
	return i >= 0 && i+1 < len(args) && args[i+1] == "calico" ||
		slices.ContainsFunc(args, func(a string) bool { return a == "--network=calico" || a == "-network=calico" })
}

func parseRacked(args []string) (o rackedOptions, err error) {
	f := flag.NewFlagSet("lab", flag.ContinueOnError)
	f.SetOutput(io.Discard) // the caller prints the error
	var noColor bool
	var policies policyFiles
	f.String("network", "", "")
	f.IntVar(&o.nodes, "nodes", 2, "")
	f.IntVar(&o.pods, "pods", 1, "")
	f.StringVar(&o.routes, "routes", routesByBGP, "")
	f.StringVar(&o.vxlan, "vxlan", "CrossSubnet", "")
	f.Var(&policies, "policy", "")
	f.BoolVar(&o.keep, "keep", false, "")
	f.BoolVar(&noColor, "no-color", false, "")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if err := policies.more(f.Args()); err != nil {
		return o, err
	}
	o.color = !noColor && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(os.Stdout)
	const most = 20
	for flag, n := range map[string]int{"--nodes": o.nodes, "--pods": o.pods} {
		if n < 1 || n > most {
			return o, &podweft.FieldError{Field: flag, Value: n, Problem: "is out of range", Remedy: fmt.Sprintf("use 1 to %d", most)}
		}
	}
	switch {
	case o.routes != routesByBGP && o.routes != routesByStore:
		return o, &podweft.FieldError{Field: "--routes", Value: o.routes, Problem: "is no source of routes", Remedy: "use bgp or store"}
	case o.vxlan != "CrossSubnet" && o.vxlan != "Always":
		return o, &podweft.FieldError{Field: "--vxlan", Value: o.vxlan, Problem: "is no mode of the lab's", Remedy: "use CrossSubnet or Always"}
	}
	o.policies, err = loadPolicies(policies, 2*o.nodes, o.pods)
	return o, err
}

// runRacked is the lab with --network calico. It returns the exit status.
func runRacked(args []string) int {
	o, err := parseRacked(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(rackedUsage)
		return exitGood
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "lab: %s (lab --network calico --help says more)\n", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := provideCalico(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return exitFailed
	}
	// From here on the program is root in a network of its own.
	err = testnet.Enter()
	if err == nil {
		err = o.take(ctx)
	}
	err = errors.Join(err, tidyCalico())
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "\nlab: interrupted; nothing is left of it")
		return exitInterrupted
	case err != nil:
		fmt.Fprintln(os.Stderr, "lab:", oneLine(err))
		return exitFailed
	}
	return exitGood
}

// take builds the cluster, makes the tour and clears up.
func (o rackedOptions) take(ctx context.Context) (err error) {
	network, err := subnet.ParseNetwork([]byte(rackedNetwork))
	if err != nil {
		return err
	}
	c, ctx, err := newCluster(ctx, network)
	if err != nil {
		return err
	}
	defer func() {
		if failed := c.close(); err == nil { // else that was why
			err = failed
		}
	}()
	c.racked = &racked{cluster: c, o: o, labels: map[string]map[string]string{}}
	t := &rackedTour{racked: c.racked, tour: newTour(options{color: o.color, nodes: 2 * o.nodes, pods: o.pods, policies: o.policies}, c)}
	policies := t.isolate
	if o.policies != nil {
		policies = t.tour.policies
	}
	for _, chapter := range []func(context.Context) error{t.underlay, t.agents, t.attach, t.ping, t.ways, policies} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	if o.keep {
		err = c.shell(ctx, t.out)
	} else {
		t.next()
	}
	return errors.Join(err, t.verdict())
}

// rackedTour says in a person's words what happens, while it happens.
type rackedTour struct {
	*racked
	*tour
}

func (t *rackedTour) underlay(context.Context) error {
	t.out.printf("%s  2 racks of %d nodes, pods on each: %d, routes by %s, VXLAN %s\n", t.out.paint(bold, "A routed pod network on your machine"),
		t.o().nodes, t.o().pods, t.o().routes, t.o().vxlan)
	t.begin("The underlay: two racks, and a router between them")
	t.say("Each rack is a network of its own. The router at the top of the racks knows those two, and has never heard of pods.")
	began := time.Now()
	if err := t.racked.build(); err != nil {
		return err
	}
	var machines table
	machines.head("rack", "machine", "addresses")
	for _, m := range t.members {
		machines.row(cell{fmt.Sprint(t.rackOf(m)), plain}, cell{m.machine.Name, plain}, cell{join(m.machine.Addrs()), cyan})
	}
	t.print(abridge(machines, mostRows))
	t.done(began, "built")
	return nil
}

func (t *rackedTour) o() rackedOptions { return t.racked.o }

func (t *rackedTour) agents(ctx context.Context) error {
	t.begin("Agents: nodes claim blocks, and tell each other")
	t.say("Each node's agent, podweft-calico, claims a block of 64 addresses of each pool, and speaks BGP with every other and with\n" +
		"the router. What it learns it puts into the kernel: to nodes of its rack as plain routes, to the others through VXLAN.")
	began := time.Now()
	if err := t.start(ctx); err != nil {
		return err
	}
	first, err := t.racked.agents[0].status(ctx)
	if err != nil {
		return err
	}
	var routes table
	routes.head("routes of "+t.members[0].machine.Name, "via", "node", "way")
	for _, r := range first.Routes {
		look := plain
		if r.Way != "direct" {
			look = yellow
		}
		routes.row(cell{r.Prefix.String(), cyan}, cell{r.NextHop.String(), plain}, cell{r.Node, plain}, cell{r.Way, look})
	}
	t.print(abridge(routes, mostRows))
	if first.BGP != nil {
		t.say("%d of %d BGP sessions of %s are up.", first.BGP.Established, len(first.BGP.Peers), t.members[0].machine.Name)
	}
	t.done(began, "every node knows every other")
	return nil
}

func (t *rackedTour) attach(ctx context.Context) error {
	t.begin("Pods: an address of a block, and a route of their own")
	t.say("The CNI plugin asks the agent for addresses and lays a cable. There is no bridge: to its node a pod is a route.")
	began := time.Now()
	if err := t.racked.attachPods(ctx); err != nil {
		return err
	}
	t.print(abridge(t.table(), mostRows))
	t.done(began, "attached")
	return nil
}

// ways is the chapter of the two ways that a packet can take.
func (t *rackedTour) ways(ctx context.Context) error {
	from := t.members[0].pods[0]
	far := t.members[len(t.members)-1].pods[0]
	near := far
	if t.o().nodes > 1 {
		near = t.members[1].pods[0]
	}
	t.begin("Two ways: within a rack, and across the router")
	t.say("The same packet, followed through the kernels' tables to a pod of its rack and to one of the other. On links marked ✓ an\n" +
		"echo request was seen to pass. Across the router it travels in VXLAN: the router forwards by the nodes' addresses alone.")
	left, err := t.traceRouted(ctx, from, near, near.addresses[0])
	right, failed := t.traceRouted(ctx, from, far, far.addresses[0])
	t.out.printf("\n")
	printSideBySide(t.out, "   ", left, right)
	if t.lost = errors.Join(err, failed); t.lost != nil {
		t.say("\n%s the packet's way is not clear: %s", t.out.paint(red, "✗"), t.lost)
	}
	return ctx.Err()
}

// guarded lets pods with the label friend call the pods named so, and nobody else.
const guarded = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: guard, namespace: default}
spec:
  podSelector: {matchLabels: {app: guarded}}
  ingress: [{from: [{podSelector: {matchLabels: {friend: "yes"}}}]}]
`

// isolate is the chapter of policies: a pod that is attached when they are there already.
func (t *rackedTour) isolate(ctx context.Context) error {
	friend, stranger := t.members[0].pods[0], t.members[len(t.members)-1].pods[0]
	t.begin("Isolation before the first packet")
	t.say("A NetworkPolicy lets only friends call the pods named guarded. %s is one, %s is not. Then a pod of that\n"+
		"name is attached: the plugin returns when its agent has the rules in the kernel, and only then may the pod run.", friend.name, stranger.name)
	t.labels[friend.name]["friend"] = "yes"
	if err := errors.Join(t.writePolicy("guard.yaml", guarded), t.tellPods()); err != nil {
		return err
	}
	began := time.Now()
	p, err := t.create(t.members[0], "guarded")
	if err == nil {
		err = t.racked.attach(ctx, p)
	}
	if err != nil {
		return err
	}
	t.done(began, "attached and isolated")
	guard := &policing{c: t.cluster, port: 80}
	if err := guard.open(); err != nil {
		return err
	}
	first, err := dial(stranger, guard.packet(stranger, p.addresses[0]), policy.Denied)
	if err != nil {
		return err
	}
	t.say("The first call, from %s, is %s.", stranger.name, first)
	rules, err := t.rules()
	if err != nil {
		return err
	}
	calls, err := guard.calls(ctx, rules)
	if err != nil {
		return err
	}
	t.out.printf("\n")
	printCalls(t.out, "   ", calls)
	t.broken = disputed(calls)
	if first != policy.Denied {
		t.broken = errors.Join(t.broken, fmt.Errorf("the first call from %s was let through", stranger.name))
	}
	return ctx.Err()
}

// rules is what the files say of all pods.
func (t *rackedTour) rules() (*policy.Ruleset, error) {
	var files []netpol.File
	for _, name := range []string{"pods.yaml", "guard.yaml"} {
		data, err := os.ReadFile(filepath.Join(t.racked.policies(), name))
		if err != nil {
			return nil, err
		}
		files = append(files, netpol.File{Name: name, Data: data})
	}
	m, err := netpol.Decode(files...)
	if err != nil {
		return nil, err
	}
	return policy.Compile(m)
}

func (t *rackedTour) next() {
	t.begin("What next?")
	const run = "go run ./examples/lab --network calico"
	list(t.out, "   ", [][2]string{
		{run + " --keep", "a shell inside: break something and watch it being repaired"},
		{run + " --vxlan Always", "a tunnel within the rack too"},
		{run + " --routes store", "without BGP"},
		{run + " --policy FILE", "who may call whom with your NetworkPolicies, and why"},
		{run + " --nodes 5 --pods 3", "more of everything"},
	})
	t.say("%s", t.out.paint(dim, fmt.Sprintf("The tour took %s and leaves nothing behind.", round(time.Since(t.began)))))
}
