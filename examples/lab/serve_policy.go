package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

var errNoPolicies = misused("no policies are in force: start the lab with --policy FILE")

// policy tries all connections, and draws them below the cast.
func (s *server) policy(ctx context.Context, out printer) error {
	p := s.c.policing
	if p == nil {
		return errNoPolicies
	}
	rules, err := p.rules()
	if err != nil {
		return err
	}
	calls, err := p.calls(ctx, rules)
	if err != nil {
		return err
	}
	t := p.table()
	t.print(out, "")
	out.printf("\n")
	printCalls(out, "", calls)
	return disputed(calls)
}

// why explains what becomes of a connection, in each family.
func (s *server) why(out printer, args []string) error {
	p := s.c.policing
	switch {
	case p == nil:
		return errNoPolicies
	case len(args) < 2 || len(args) > 3:
		return misused("write lab why FROM TO, with two pods, and a TCP port")
	}
	from, to := s.c.pod(args[0]), s.c.pod(args[1])
	for i, pod := range []*pod{from, to} {
		if pod == nil {
			return misused(fmt.Sprintf("there is no pod %q: `lab` lists them", args[i]))
		}
	}
	port := uint64(p.port)
	if len(args) == 3 {
		var err error
		if port, err = strconv.ParseUint(args[2], 10, 16); err != nil || port == 0 {
			return misused(fmt.Sprintf("%q is not a port: use 1 to 65535", args[2]))
		}
	}
	rules, err := p.rules()
	if err != nil {
		return err
	}
	for _, dst := range to.addresses {
		packet := p.packet(from, dst)
		packet.Port = uint16(port)
		out.printf("%s", rules.Explain(packet))
	}
	return nil
}

// label puts labels on a pod or a namespace.
func (s *server) label(ctx context.Context, args []string) error {
	p := s.c.policing
	switch {
	case p == nil:
		return errNoPolicies
	case len(args) < 2:
		return misused("write lab label POD KEY=VALUE..., or ns/NAMESPACE for POD, or KEY- to take a label off")
	}
	var to label
	var ok bool
	if to.namespace, ok = strings.CutPrefix(args[0], "ns/"); !ok {
		if to.pod = s.c.pod(args[0]); to.pod == nil {
			return misused(fmt.Sprintf("there is no pod %q: `lab` lists them", args[0]))
		}
	}
	var all []label
	for _, arg := range args[1:] {
		one := to
		if key, gone := strings.CutSuffix(arg, "-"); gone && !strings.Contains(arg, "=") {
			one.key = key
		} else if one.key, one.value, ok = strings.Cut(arg, "="); !ok {
			return misused(fmt.Sprintf("%q is not a label: write KEY=VALUE, or KEY-", arg))
		}
		all = append(all, one)
	}
	return p.label(ctx, all...)
}
