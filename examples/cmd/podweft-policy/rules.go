package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/iptables"
	"github.com/podweft/podweft/policy/nftables"
)

// rules prints what enforces the policies of one node's pods.
func (p *program) rules(args []string) error {
	f := flag.NewFlagSet("rules", flag.ContinueOnError)
	f.SetOutput(io.Discard) // the caller prints the error
	node := f.String("node", "", "")
	xtables := f.Bool("iptables", false, "")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w: %w", err, errUsage)
	}
	m, err := p.model(f.Args())
	if err != nil {
		return err
	}
	compiled, err := policy.NewCompiler(*node).Update(m)
	if err != nil {
		return err
	}
	if compiled.Endpoints.Len() == 0 {
		return fmt.Errorf("no pod of these files is on %s", cmp.Or(*node, "any node"))
	}
	var text string
	if *xtables {
		text, err = iptables.Text(iptables.Config{}, iptables.Spec{Rules: compiled})
	} else {
		text, err = nftables.Text(nftables.Config{}, nftables.Spec{Rules: compiled})
	}
	if err != nil {
		return fmt.Errorf("%w (name one with --node)", err)
	}
	_, err = io.WriteString(p.out, text)
	return err
}
