// Command podweft-cni is a CNI plugin in one static binary. Link it as flannel, ptp, portmap and loopback too, and a node needs no
// other: it does what the plugin does whose name it is called by. See package cniplugin.
package main

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/podweft/podweft/cniplugin"
)

func main() {
	debug.SetGCPercent(-1)                               // a call lives a few milliseconds
	runtime.MemProfileRate = 0                           // and nobody asks where its memory went
	runtime.GOMAXPROCS(1)                                // and does one thing after the other: more threads to choose from only wake each other
	cfg := cniplugin.Config{AgentWait: 10 * time.Second} // after a node's start, when its pods are started at once with its agent
	os.Exit(cniplugin.Run(context.Background(), cfg, cniplugin.SystemCall(filepath.Base(os.Args[0]))))
}
