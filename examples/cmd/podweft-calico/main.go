// Command podweft-calico is a node's agent for a pod network like Calico's: see package calico, and --help.
package main

import (
	"os"

	"github.com/podweft/podweft/examples/calico"
)

func main() { os.Exit(calico.Main(os.Args[1:], os.Stdout, os.Stderr)) }
