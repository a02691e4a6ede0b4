package calico

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"
)

const usage = `podweft-calico [flags] [command]: this node's part in a pod network like Calico's

  (no command)  run the agent
  status        how the agent on this node is doing: BGP peers, routes, blocks
  plan          show what a start would change, and change nothing
  cleanup       remove what the agent made on this node, give its blocks back, and take the node out of the store
  forget NODE   take another node, which is gone for good, out of the store, and free its blocks; --force: though it counts as alive
  ipam show     the pools' blocks, and who has them
  ipam check    compare them with each other, with the nodes and with this node's pods
  ipam gc       free what nobody uses on this node: addresses of pods that went, and empty blocks
  tor           be a router between racks: learn what is behind the nodes by BGP, and forward
  etcd          run an etcd and nothing else, where --etcd-listen says
  install       install the CNI plugin on this node

Flags may also be given as in calico/node's environment, named behind each.

`

// Main is the command. It returns the exit status: 0, 1 when something failed, 2 when the command line makes no sense. What was
// wrong is one sentence on stderr.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // every node of a cluster spends the memory, and hardly any processor time
	}
	return command(ctx, args, os.Getenv, stdout, stderr)
}

func command(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	complain := func(status int, err error) int {
		_, _ = fmt.Fprintln(stderr, "podweft-calico:", oneLine(err))
		return status
	}
	if len(args) > 0 && args[0] == "tor" {
		if err := tor(ctx, args[1:], stderr); err != nil {
			return complain(1, err)
		}
		return 0
	}
	var help strings.Builder
	o, words, err := ParseOptions(args, getenv, &help)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = fmt.Fprint(stdout, usage, help.String())
		return 0
	}
	if err != nil {
		return complain(2, err)
	}
	defer o.Close()
	if o.Config.Logger, err = o.logger(stderr); err != nil {
		return complain(2, err)
	}
	name := strings.Join(words, " ")
	if len(words) == 2 && words[0] == "forget" {
		name, o.gone = words[0], words[1]
	}
	do := map[string]func(context.Context, io.Writer) error{
		"": o.run, "status": o.status, "plan": o.plan, "cleanup": o.cleanup, "forget": o.forget,
		"ipam show": o.showBlocks, "ipam check": o.checkBlocks, "ipam gc": o.collectBlocks,
		"etcd": o.serveAlone, "install": o.install.run,
	}[name]
	if do == nil {
		return complain(2, fmt.Errorf("there is no command %q: see --help", name))
	}
	if name != "status" && name != "etcd" && name != "install" && name != "forget" { // those need not be on a node
		if err := o.settle(ctx); err != nil {
			return complain(1, err)
		}
		if err := o.Config.Validate(); err != nil {
			return complain(2, err)
		}
	}
	if err := do(ctx, stdout); err != nil {
		return complain(1, err)
	}
	return 0
}

// run is the agent, until ctx ends.
func (o *Options) run(ctx context.Context, _ io.Writer) error {
	agent, err := New(o.Config)
	if err != nil {
		return err
	}
	// Before anything else: an agent that begins to run takes the place of one that runs already, which pods' ADDs then do not find.
	listeners, err := agent.listeners(ctx, o.Healthz)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	if o.server.Client != "" {
		group.Go(func() error { return o.serve(ctx) })
	}
	if o.cluster != nil {
		group.Go(func() error { return o.tellAvailable(ctx, agent) })
	}
	group.Go(func() error { return agent.serve(ctx, listeners) })
	group.Go(func() error {
		defer cancel()
		return agent.Run(ctx)
	})
	return group.Wait()
}

// status prints how the agent on this node is doing.
func (o *Options) status(ctx context.Context, out io.Writer) error {
	s, err := o.Config.ask(ctx)
	if err != nil {
		return err
	}
	if o.JSON {
		return printJSON(out, s)
	}
	s.print(out)
	return nil
}

func printJSON(out io.Writer, what any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(what)
}
