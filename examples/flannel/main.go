package flannel

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
)

const usage = `podweft-flannel [flags] [command]: this node's part in a pod network like flannel's

  (no command)  run the daemon
  plan          show what a start would change, and change nothing
  cleanup       remove what the daemon made on this node
  docker-opts   write Docker's options, from the subnet that the daemon has
  etcd          run an etcd and nothing else, where --etcd-listen says
  install       install the CNI plugin on this node

Each flag can also be given in the environment: --ip-masq as FLANNELD_IP_MASQ=true.

`

// Main is the command. It returns the exit status: 0, 1 when something failed, 2 when the command line makes no sense. What was
// wrong is one sentence on stderr.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // every node of a cluster spends the memory, and hardly any processor time
	}
	return run(ctx, args, os.Getenv, stdout, stderr)
}

// thrift is for a daemon whose start is over, which has few changes from then on: it gives back what listing and programming thousands
// of peers at once took, and lets less garbage gather.
func thrift() {
	debug.SetGCPercent(20)
	debug.FreeOSMemory()
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	complain := func(status int, err error) int {
		_, _ = fmt.Fprintln(stderr, "podweft-flannel:", strings.ReplaceAll(err.Error(), "\n", "; "))
		return status
	}
	var help strings.Builder
	o, commands, err := ParseOptions(args, getenv, &help)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = fmt.Fprint(stdout, usage, help.String())
		return 0
	}
	if err != nil {
		return complain(2, err)
	}
	if o.version {
		_, _ = fmt.Fprintln(stdout, "podweft-flannel", version())
		return 0
	}
	if o.Logger, err = o.logger(stderr); err != nil {
		return complain(2, err)
	}
	if getenv("GOGC") == "" {
		o.settled = thrift
	}
	switch strings.Join(commands, " ") {
	case "":
		err = Run(ctx, o)
	case "plan":
		err = o.plan(ctx, stdout)
	case "cleanup":
		err = o.cleanup(ctx, stdout)
	case "etcd":
		err = o.serveAlone(ctx)
	case "install":
		err = o.cni.install()
	case "docker-opts":
		err = o.docker.write(o.SubnetFile)
	default:
		return complain(2, fmt.Errorf("there is no command %q: see --help", strings.Join(commands, " ")))
	}
	if err != nil {
		return complain(1, err)
	}
	return 0
}

// version is that of the module, as the go command noted it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "(unknown)"
}
