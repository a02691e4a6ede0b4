// Command give is a plugin that gives an address and nothing else, or not even that: see BenchmarkProcess.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"

	"github.com/podweft/podweft/ipam"
)

// config comes on standard input. Without a Path nothing is done.
type config struct {
	Path      string
	Prefixes  []netip.Prefix
	Container string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var c config
	if err := json.NewDecoder(os.Stdin).Decode(&c); err != nil {
		return err
	}
	if c.Path == "" {
		return json.NewEncoder(os.Stdout).Encode(c)
	}
	p, err := ipam.Open(ipam.Config{Path: c.Path, Prefixes: c.Prefixes})
	if err != nil {
		return err
	}
	defer p.Close()
	held, err := p.Allocate(context.Background(), ipam.Owner{Network: "cbr0", Container: c.Container, Interface: "eth0"})
	if err != nil {
		return err
	}
	c.Prefixes = c.Prefixes[:0]
	for _, a := range held.Addresses {
		c.Prefixes = append(c.Prefixes, a.Prefix)
	}
	return json.NewEncoder(os.Stdout).Encode(c)
}
