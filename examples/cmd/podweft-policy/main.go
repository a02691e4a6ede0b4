// Podweft-policy answers questions about NetworkPolicies from their YAML files, without a cluster and without privileges, or from what
// is in a cluster:
//
//	podweft-policy check policies.yaml pods.yaml          # what is wrong with them, and what is probably not meant
//	podweft-policy why client web tcp/80 *.yaml           # would it come through, and which rule decides
//	podweft-policy why --kubeconfig ~/.kube/config shop/web shop/db 5432
//	podweft-policy diff old.yaml new.yaml                 # which connections change
//	podweft-policy rules --node node-1 *.yaml             # the nftables rules of a node; --iptables for those
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/podweft/podweft/kube/netpol"
	"github.com/podweft/podweft/policy"
)

// The exit statuses.
const (
	exitGood    = 0
	exitProblem = 1 // something is wrong with the files, or has changed
	exitUsage   = 2
)

const usage = `Usage: podweft-policy COMMAND ...

  check FILE...               validate, and warn of what cannot work as it was meant
  why SRC DST PORT FILE...    whether a connection comes through, and which policy, rule and peer decide
  why --kubeconfig FILE SRC DST PORT
                              the same of the policies and pods that are in the cluster now
  diff OLD NEW                which connections change; each of the two is a file or a directory
  rules [--node N] [--iptables] FILE...
                              the rules for the pods of a node, for nft, or for ipset and iptables-restore

FILEs are YAML with NetworkPolicies, ClusterNetworkPolicies, Pods, Namespaces and Nodes; - is standard input.
SRC and DST are pods (NAMESPACE/NAME or NAME) or addresses. PORT is a number or PROTOCOL/NUMBER: 80, udp/53.
`

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// errUsage is a command line that cannot be understood.
var errUsage = errors.New("podweft-policy --help says more")

// errProblem ends a command that has said what it found.
var errProblem = errors.New("problem")

// program is where a command reads and writes.
type program struct {
	in   io.Reader
	out  io.Writer
	errs io.Writer
}

// note says what is no answer.
func (p *program) note(err error) { _, _ = fmt.Fprintf(p.errs, "podweft-policy: %s\n", err) }

// printf writes for people. Who reads no more of it needs no word about that.
func (p *program) printf(format string, args ...any) { _, _ = fmt.Fprintf(p.out, format, args...) }

func run(args []string, in io.Reader, out, errs io.Writer) int {
	p, said := &program{in: in, out: out, errs: errs}, &program{out: errs}
	commands := map[string]func([]string) error{"check": p.check, "why": p.why, "diff": p.diff, "rules": p.rules}
	if len(args) > 0 && (args[0] == "--help" || args[0] == "-h" || args[0] == "help") {
		p.printf("%s", usage)
		return exitGood
	}
	if len(args) == 0 || commands[args[0]] == nil {
		said.printf("%s", usage)
		return exitUsage
	}
	err := commands[args[0]](args[1:])
	switch {
	case err == nil:
		return exitGood
	case errors.Is(err, errProblem):
		return exitProblem
	case errors.Is(err, flag.ErrHelp):
		p.printf("%s", usage)
		return exitGood
	}
	said.printf("podweft-policy: %s\n", err)
	if errors.Is(err, errUsage) {
		return exitUsage
	}
	return exitProblem
}

// model reads files. What is wrong with some objects does not keep the others from being looked at.
func (p *program) model(names []string) (policy.Model, error) {
	if len(names) == 0 {
		return policy.Model{}, fmt.Errorf("no file is named: %w", errUsage)
	}
	files := make([]netpol.File, 0, len(names))
	for _, name := range names {
		var data []byte
		var err error
		if name == "-" {
			data, err = io.ReadAll(p.in)
		} else {
			data, err = os.ReadFile(name)
		}
		if err != nil {
			return policy.Model{}, err
		}
		files = append(files, netpol.File{Name: name, Data: data})
	}
	return netpol.Decode(files...)
}
