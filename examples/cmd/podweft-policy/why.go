package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/podweft/podweft/policy"
)

// why explains one connection, in every family that both of its ends have.
func (p *program) why(args []string) error {
	f := flag.NewFlagSet("why", flag.ContinueOnError)
	f.SetOutput(io.Discard) // the caller prints the error
	kubeconfig := f.String("kubeconfig", "", "")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w: %w", err, errUsage)
	}
	args = f.Args()
	if len(args) < 4 && (len(args) < 3 || *kubeconfig == "") {
		return fmt.Errorf("why needs SRC, DST, PORT and files, or --kubeconfig: %w", errUsage)
	}
	if len(args) > 3 && *kubeconfig != "" {
		return fmt.Errorf("why reads either files or a cluster: %w", errUsage)
	}
	protocol, port, err := parsePort(args[2])
	if err != nil {
		return err
	}
	var m policy.Model
	var invalid error
	if *kubeconfig != "" {
		if m, err = p.cluster(*kubeconfig); err != nil {
			return err
		}
	} else {
		m, invalid = p.model(args[3:])
	}
	rules, err := policy.Compile(m)
	if *kubeconfig != "" && err != nil {
		p.note(err) // whoever asks about one connection need not mend somebody else's policy first
	} else if err = errors.Join(invalid, err); err != nil {
		return err
	}
	sources, err := find(m, args[0])
	if err != nil {
		return err
	}
	destinations, err := find(m, args[1])
	if err != nil {
		return err
	}
	verdict, found := policy.Allowed, false
	for _, src := range sources {
		for _, dst := range destinations {
			if src.Is4() != dst.Is4() {
				continue
			}
			packet := policy.Packet{Src: src, Dst: dst, Protocol: protocol, Port: port}
			p.printf("%s", rules.Explain(packet))
			found = true
			if v, _ := rules.Evaluate(packet); v == policy.Denied {
				verdict = policy.Denied
			}
		}
	}
	switch {
	case !found:
		return fmt.Errorf("%s and %s have no address family in common", args[0], args[1])
	case verdict == policy.Denied:
		return errProblem
	}
	return nil
}

// find returns the addresses of a pod, or the address that name is.
func find(m policy.Model, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a}, nil
	}
	path := name
	if !strings.Contains(path, "/") {
		path = "default/" + path
	}
	for _, pod := range m.Pods {
		if pod.Namespace+"/"+pod.Name != path {
			continue
		}
		if len(pod.Addresses) == 0 {
			return nil, fmt.Errorf("pod %s has no address: its status.podIPs is empty", path)
		}
		return pod.Addresses, nil
	}
	return nil, fmt.Errorf("%s is no address, and no pod of that name is there", name)
}

// parsePort reads "80" or "udp/53".
func parsePort(text string) (policy.Protocol, uint16, error) {
	name, number, ok := strings.Cut(text, "/")
	if !ok {
		name, number = "tcp", text
	}
	protocol := map[string]policy.Protocol{"tcp": policy.TCP, "udp": policy.UDP, "sctp": policy.SCTP}[strings.ToLower(name)]
	n, err := strconv.ParseUint(number, 10, 16)
	if protocol == 0 || err != nil || n == 0 {
		return 0, 0, fmt.Errorf("%q is not a port: write one like 80 or udp/53: %w", text, errUsage)
	}
	return protocol, uint16(n), nil
}
