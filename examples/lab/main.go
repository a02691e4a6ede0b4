// Lab shows a pod network at work: it builds a cluster of many nodes on this machine, lets every pod ping every other, and
// follows one packet from hop to hop.
//
//	go run ./examples/lab
//	go run ./examples/lab --nodes 5 --backend host-gw
//	go run ./examples/lab --keep
//
// It needs no root and changes nothing on the host: each node and each pod is a network namespace, all of them in a user
// namespace of the program's own, and gone when it ends.
//
// It is also meant to be read, in this order:
//
//	cluster.go  machines, leases, backends, pods: a pod network composed of this SDK's packages
//	backend.go  where the drivers come in
//	tour.go     the same once more, in words
//	matrix.go   every pod to every other
//	trace.go    a packet's way, as the kernel's tables have it
//	policy.go   who may call whom, for --policy
//	tenants.go  several networks with the same addresses, for --tenants
//	racked.go   blocks, BGP and routed pods over two racks, for --network calico (racked_policy.go: its policies)
//	daemon.go   agents that are processes of their own, for --store etcd
//
// Else the cluster lives in one process and its leases in memory. It shows how things work, not how to deploy them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// The exit statuses of the lab.
const (
	exitGood        = 0
	exitFailed      = 1 // something could not be built, or a ping was lost
	exitUsage       = 2
	exitInterrupted = 130 // as a shell has it after Ctrl-C
)

func main() {
	if isRacked(os.Args[1:]) {
		os.Exit(runRacked(os.Args[1:]))
	}
	// Before anything else: from here on the program is root in a network of its own.
	if err := enter(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(exitFailed)
	}
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	if os.Getenv(socketVar) != "" && len(args) == 0 {
		args = []string{"show"} // `lab`, in the shell of a lab
	}
	if len(args) > 0 && isCommand(args[0]) {
		return ask(args)
	}
	o, err := parse(args)
	if err != nil {
		return o.refuse(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err = o.take(ctx)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "\nlab: interrupted; nothing is left of it")
		return exitInterrupted
	case err != nil:
		fmt.Fprintln(os.Stderr, "lab:", err)
		return exitFailed
	}
	return exitGood
}

// take builds the cluster, makes the tour, does what was asked for besides, and clears up.
func (o options) take(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, tidy()) }()
	c, ctx, err := newCluster(ctx, o.network)
	if err != nil {
		return err
	}
	defer func() {
		if failed := c.close(); err == nil { // else that was why
			err = failed
		}
	}()

	t := newTour(o, c)
	if err := t.take(ctx); err != nil {
		return err
	}
	switch {
	case o.json:
		err = t.report().write(os.Stdout)
	case o.keep:
		err = c.shell(ctx, t.out)
	default:
		t.next()
	}
	return errors.Join(err, t.verdict())
}
