// Command cnitest goes through package cnitest's checklist with the plugins of a directory and a network configuration list:
//
//	cnitest -dir /opt/cni/bin 10-mynet.conflist
//
// It needs no root: it works in namespaces of its own, with passing directories in place of /run and /var/lib, so that nothing
// of the machine's changes. It exits with 1 if any rule is broken.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/cnitest"
	"github.com/podweft/podweft/testnet"
)

func main() {
	os.Exit(run())
}

func run() int {
	dir := flag.String("dir", "/opt/cni/bin", "where the plugins are")
	flag.Usage = func() {
		fmt.Println("usage: cnitest [-dir DIR] CONFLIST")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		return 2
	}
	results, err := test(*dir, flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, "cnitest:", err)
		return 2
	}
	broken := 0
	for _, r := range results {
		fmt.Println(r)
		if r.Err != nil {
			broken++
		}
	}
	fmt.Printf("%d rules, %d broken\n", len(results), broken)
	if broken > 0 {
		return 1
	}
	return 0
}

func test(dir, file string) ([]cnitest.Result, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	list, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if err := testnet.Enter(); err != nil {
		return nil, err
	}
	for _, path := range []string{"/run", "/var/lib"} { // state of plugins, and xtables' lock
		if err := unix.Mount("cnitest", path, "tmpfs", 0, ""); err != nil {
			return nil, fmt.Errorf("mount over %s: %w", path, err)
		}
	}
	return cnitest.Run(context.Background(), cnitest.Config{Dir: dir, List: list})
}
