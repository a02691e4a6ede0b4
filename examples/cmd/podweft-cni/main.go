// The goroutine that would follow changes of the CPUs there are comes to nothing in a few milliseconds.
//go:debug updatemaxprocs=0

// Command podweft-cni is a CNI plugin in one static binary. Link it as flannel, ptp, portmap and loopback too, and a node needs no
// other: it does what the plugin does whose name it is called by. See package cniplugin.
package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/podweft/podweft/cniplugin"
	_ "github.com/podweft/podweft/examples/internal/alone"
)

func main() {
	cfg := cniplugin.Config{AgentWait: 10 * time.Second} // after a node's start, when its pods are started at once with its agent
	os.Exit(cniplugin.Run(context.Background(), cfg, cniplugin.SystemCall(filepath.Base(os.Args[0]))))
}
