// Command podweft-flannel is a node's daemon for a pod network like flannel's: see package flannel, and --help. Called cp it copies a
// file, which is all else that manifests want of flannel's image.
package main

import (
	"os"
	"path/filepath"

	"github.com/podweft/podweft/examples/flannel"
)

func main() {
	if filepath.Base(os.Args[0]) == "cp" {
		os.Exit(flannel.Copy(os.Args[1:], os.Stderr))
	}
	os.Exit(flannel.Main(os.Args[1:], os.Stdout, os.Stderr))
}
