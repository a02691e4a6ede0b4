package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/udp"
	"github.com/podweft/podweft/vxlan"
)

// netConf is the cluster's configuration unless --net-conf names another: the file of flannel's tutorials, with IPv6 on.
//
//go:embed net-conf.json
var netConf []byte

const usage = `Usage: lab [flags]

Builds a pod network of many nodes on this machine, as an ordinary user, shows how it works, and leaves nothing behind.

      --nodes N          machines in the cluster (3)
      --pods N           pods on each of them (2)
      --backend TYPE     how packets travel between nodes: vxlan, host-gw or udp (what net-conf.json says)
      --net-conf FILE    the network's net-conf.json, as flannel's (10.244.0.0/16 and fd00:244::/48 over vxlan)
      --network calico   another network: two racks, blocks, BGP, routed pods (lab --network calico --help)
      --store STORE      where leases are kept: memory, or etcd with each node's agent a process of its own (memory)
      --tenants N        besides, N networks side by side on the same nodes, with the same addresses in each (0)
      --policy FILE...   besides, who may call whom with NetworkPolicies in force (YAML, of several documents too)
      --sample N         ping that many pairs of pods rather than all of them (all, up to 10000)
      --json             print one JSON document instead of the tour
      --keep             stay up after the tour, with a shell inside
      --no-color         plain text on a terminal too, as with NO_COLOR=1

In the shell of --keep:

  lab                    the nodes, leases, pods and addresses
  lab exec NAME CMD...   run a command in a node or pod
  lab ping FROM TO       from a pod to another, or to "outside"
  lab trace FROM TO [6]  one packet's way, with the entry that decided each hop

with --store etcd:

  lab agents             the nodes' agents, processes that kill -9 may hit
  lab start NODE         start an agent again

and with --policy:

  lab policy             who may call whom, tried now
  lab why FROM TO [PORT] whether a connection comes through, and which policy, rule and peer decide
  lab label POD K=V...   put labels on a pod, or on ns/NAMESPACE; K- takes one off
`

// options are what the command line asks for.
type options struct {
	nodes, pods int
	tenants     int
	sample      int
	store       string
	network     *subnet.Network
	policies    *script // nil if none were named
	json, keep  bool
	color       bool
}

const (
	mostNodes  = 200 // the underlay is a /24
	mostPods   = 200 // and so is a node's subnet
	mostSample = 1_000_000
)

// parse reads the command line. Its errors are flag.ErrHelp and what is wrong with a flag, each in one sentence.
func parse(args []string) (options, error) {
	var o options
	var backend, file string
	var noColor bool
	var policies policyFiles
	f := flag.NewFlagSet("lab", flag.ContinueOnError)
	f.SetOutput(io.Discard) // the caller prints the error
	f.IntVar(&o.nodes, "nodes", 3, "")
	f.IntVar(&o.pods, "pods", 2, "")
	f.IntVar(&o.tenants, "tenants", 0, "")
	f.IntVar(&o.sample, "sample", 0, "")
	f.StringVar(&o.store, "store", storeMemory, "")
	f.StringVar(&backend, "backend", "", "")
	f.StringVar(&file, "net-conf", "", "")
	f.Var(&policies, "policy", "")
	f.BoolVar(&o.json, "json", false, "")
	f.BoolVar(&o.keep, "keep", false, "")
	f.BoolVar(&noColor, "no-color", false, "")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.color = !noColor && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(os.Stdout)
	if err := policies.more(f.Args()); err != nil {
		return o, err
	}
	if err := o.validate(); err != nil {
		return o, err
	}
	var err error
	if o.policies, err = loadPolicies(policies, o.nodes, o.pods); err != nil {
		return o, err
	}
	if o.network, err = loadNetwork(file, backend); err != nil {
		return o, err
	}
	return o, o.validStore()
}

// policyFiles are those of --policy FILE..., which may be written once for all of them, as in --policy *.yaml.
type policyFiles []string

func (p *policyFiles) String() string { return strings.Join(*p, " ") }

// Set is for [flag.Var].
func (p *policyFiles) Set(name string) error {
	*p = append(*p, name)
	return nil
}

// more takes the arguments that are no flags.
func (p *policyFiles) more(names []string) error {
	if len(*p) == 0 && len(names) > 0 {
		return fmt.Errorf("there is no command %q", names[0])
	}
	*p = append(*p, names...)
	return nil
}

func (o options) validate() error {
	for _, n := range []struct {
		flag               string
		value, least, most int
	}{
		{"--nodes", o.nodes, 1, mostNodes},
		{"--pods", o.pods, 1, mostPods},
		{"--tenants", o.tenants, 0, len(tenantNames)},
		{"--sample", o.sample, 0, mostSample},
	} {
		if n.value < n.least || n.value > n.most {
			return &podweft.FieldError{
				Field: n.flag, Value: n.value, Problem: "is out of range", Remedy: fmt.Sprintf("use %d to %d", n.least, n.most),
			}
		}
	}
	if o.tenants > 0 && o.nodes < 2 {
		return &podweft.FieldError{Field: "--tenants", Problem: "on a single node have nothing to share", Remedy: "use --nodes 2 or more"}
	}
	if o.json && o.keep {
		return &podweft.FieldError{Field: "--keep", Problem: "and --json do not go together", Remedy: "use one of them"}
	}
	return nil
}

// loadNetwork reads the cluster's configuration. An empty file is the built-in one, an empty backend what it says.
func loadNetwork(file, backend string) (*subnet.Network, error) {
	raw := netConf
	if file != "" {
		var err error
		if raw, err = os.ReadFile(file); err != nil {
			return nil, fmt.Errorf("--net-conf: %w", err)
		}
	}
	network, err := subnet.ParseNetwork(raw)
	if err != nil {
		return nil, fmt.Errorf("--net-conf: %s", oneLine(err))
	}
	field := "Backend.Type"
	if backend != "" && backend != network.Backend.Type {
		field = "--backend"
		config, err := json.Marshal(struct{ Type string }{backend}) // the other fields are another backend's
		if err != nil {
			return nil, err
		}
		network.Backend = subnet.Backend{Type: backend, Config: config}
	}
	switch network.Backend.Type {
	case vxlan.Type, hostgw.Type, udp.Type:
		return network, nil
	}
	return nil, &podweft.FieldError{
		Field: field, Value: network.Backend.Type, Problem: "is not a backend of the lab", Remedy: "use vxlan, host-gw or udp",
	}
}

// refuse says why the command line is not understood, and returns the exit status.
func (o options) refuse(err error) int {
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		return exitGood
	}
	fmt.Fprintf(os.Stderr, "lab: %s (lab --help says more)\n", err)
	return exitUsage
}

// oneLine makes a sentence of errors that were joined.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
