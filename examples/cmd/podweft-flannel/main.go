// Command podweft-flannel is a node's daemon for a pod network like flannel's: see package flannel, and --help.
package main

import (
	"os"

	"github.com/podweft/podweft/examples/flannel"
)

func main() { os.Exit(flannel.Main(os.Args[1:], os.Stdout, os.Stderr)) }
