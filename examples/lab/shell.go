package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// shell lets the user look around until the shell ends or ctx does.
func (c *cluster) shell(ctx context.Context, out printer) error {
	bin := filepath.Join(c.dir, "bin")
	if err := c.furnish(bin); err != nil {
		return fmt.Errorf("prepare the shell: %w", err)
	}
	server, err := serve(ctx, c)
	if err != nil {
		return fmt.Errorf("prepare the shell: %w", err)
	}
	defer server.stop()

	sabotage, err := c.sabotage()
	if err != nil {
		return fmt.Errorf("prepare the shell: %w", err)
	}

	first, last := c.members[0], c.members[len(c.members)-1]
	out.printf("\n%s\n", out.paint(bold, "The cluster stays up as long as this shell"))
	commands := [][2]string{
		{"lab", "the nodes, leases, pods and addresses"},
		{fmt.Sprintf("lab ping %s %s", first.pods[0].name, last.pods[0].name), "from a pod to another, or to \"outside\""},
		{fmt.Sprintf("lab trace %s %s", first.pods[0].name, last.pods[0].name), "a packet's way; add 6 for IPv6"},
		{fmt.Sprintf("lab exec %s ip route", first.machine.Name), "any command, in any node or pod"},
		{fmt.Sprintf("lab exec %s %s", first.machine.Name, sabotage), "break something, and ping again"},
		{"exit", "and everything is gone"},
	}
	if c.etcd != nil {
		commands = slices.Insert(commands, len(commands)-1, [][2]string{
			{"lab agents", "the nodes' agents, which are processes: kill -9 one, and ping again"},
			{"lab start " + first.machine.Name, "start it again"},
		}...)
	}
	if c.policing != nil {
		commands = slices.Insert(commands, len(commands)-1, [][2]string{
			{"lab policy", "who may call whom, tried now"},
			{fmt.Sprintf("lab why %s %s", last.pods[0].name, first.pods[0].name), "which policy, rule and peer decide; a port may follow"},
			{fmt.Sprintf("lab label %s role=test", last.pods[0].name), "put a label on a pod, or on ns/NAMESPACE; KEY- takes it off"},
		}...)
	}
	list(out, "   ", commands)
	out.printf("\n")

	cmd := c.command(ctx, bin, server.path)
	if !out.color {
		cmd.Env = append(cmd.Env, "NO_COLOR=1")
	}
	err = cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return ctx.Err() // the status of the last command in a shell is nothing to report
	}
	return err
}

// sabotage is a command that breaks the first node's network.
func (c *cluster) sabotage() (string, error) {
	links, err := c.members[0].machine.Links()
	if err != nil {
		return "", err
	}
	for _, l := range links {
		if l.Kind == "vxlan" {
			return "ip link delete " + l.Name, nil
		}
	}
	last := c.members[len(c.members)-1].agent.Status().Lease.Prefixes
	if last.V4.IsValid() {
		return "ip route delete " + last.V4.String(), nil
	}
	return "ip -6 route delete " + last.V6.String(), nil
}

// furnish makes the files that the shell needs: `lab` as a command, names for the pods' addresses, a prompt.
func (c *cluster) furnish(bin string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	err = errors.Join(
		os.Mkdir(bin, 0o700),
		os.Symlink(self, filepath.Join(bin, "lab")),
		os.WriteFile(filepath.Join(c.dir, "rc"), []byte(rc), 0o600),
		os.WriteFile(filepath.Join(c.dir, "hosts"), []byte(c.hosts()), 0o644),
	)
	if err != nil {
		return err
	}
	// In our own mount namespace: nobody else sees it. Without it names do not resolve, and addresses go on to work.
	_ = syscall.Mount(filepath.Join(c.dir, "hosts"), "/etc/hosts", "", syscall.MS_BIND, "")
	return nil
}

// rc is read by the shell when it starts: after it the prompt says where we are.
const rc = `case "$BASH_VERSION" in ?*) [ -f ~/.bashrc ] && . ~/.bashrc ;; esac
PATH="$PODWEFT_LAB_BIN:$PATH"
PS1='(lab) \w \$ '
case "$BASH_VERSION" in '') PS1='(lab) $ ' ;; esac
`

func (c *cluster) hosts() string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for _, m := range c.machines() {
		for _, a := range m.Addrs() {
			fmt.Fprintf(&b, "%s %s\n", a, m.Name)
		}
	}
	for p := range c.pods() {
		for _, a := range p.addresses {
			fmt.Fprintf(&b, "%s %s\n", a, p.name)
		}
	}
	return b.String()
}

// command is the user's shell.
func (c *cluster) command(ctx context.Context, bin, socket string) *exec.Cmd {
	name := os.Getenv("SHELL")
	if name == "" {
		name = "/bin/sh"
	}
	var args []string
	rc := filepath.Join(c.dir, "rc")
	if filepath.Base(name) == "bash" {
		args = []string{"--rcfile", rc}
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// In a process group of its own. Ours is from outside of our PID namespace and has no number here, with which shells
	// that hand the terminal from group to group cannot cope.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Foreground: isTerminal(os.Stdin), Ctty: int(os.Stdin.Fd())}
	cmd.Env = append(os.Environ(),
		"PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"),
		"PODWEFT_LAB="+socket, "PODWEFT_LAB_BIN="+bin,
		"ENV="+rc, // what a POSIX shell reads
	)
	// A hangup is what a shell gets when its terminal goes away: it puts its house in order and ends.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGHUP) }
	cmd.WaitDelay = time.Second
	return cmd
}
