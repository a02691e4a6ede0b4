package testnet

import (
	"context"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/netns"
)

// commandName is the name under which this program runs when its only task is to enter a node and become another program. A
// name, not a variable of the environment: a caller who sets the command's Env would lose that, and the program would start
// over from main instead.
const commandName = "podweft-testnet-command"

// Command is exec.CommandContext for a program that is to run inside the node. The program of the caller must have called
// [Main] or [Enter]: it is executed again for a moment, enters the node there and becomes the named program.
func (n *Node) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	target := exec.Command(name, args...)
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = append([]string{commandName, n.path, target.Path}, target.Args...)
	cmd.Err = target.Err
	if !inside() && cmd.Err == nil {
		// Executed again, the program would not come by runCommand.
		cmd.Err = fmt.Errorf("run %s in node %s: neither testnet.Main nor testnet.Enter was called", name, n.Name)
	}
	return cmd
}

// runCommand is the other half of Command: it does not return if this process is one.
func runCommand() {
	if os.Args[0] != commandName || len(os.Args) < 4 {
		return
	}
	path, file, argv := os.Args[1], os.Args[2], os.Args[3:]
	err := netns.Do(path, func() error { return unix.Exec(file, argv, os.Environ()) })
	fmt.Fprintf(os.Stderr, "%s: %v\n", argv[0], err)
	os.Exit(127) // as a shell does
}
