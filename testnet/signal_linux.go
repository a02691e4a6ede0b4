package testnet

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// forwarded are the signals that people and service managers end or prod a program with.
var forwarded = []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2}

// accompany passes signals on to the child until it ends and returns the exit code.
func accompany(child *exec.Cmd, signals <-chan os.Signal) int {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = child.Wait() // ProcessState says it all
	}()
	for {
		select {
		case sig := <-signals:
			if !fromTerminal(sig) {
				_ = child.Process.Signal(sig) // fails if it has just ended
			}
		case <-ended:
			status := child.ProcessState.Sys().(syscall.WaitStatus)
			if status.Signaled() {
				return 128 + int(status.Signal())
			}
			return status.ExitStatus()
		}
	}
}

// fromTerminal reports whether the terminal sent sig. It sends to all processes of its foreground group, so the child has
// the signal already, and most programs take the second Ctrl-C for impatience. (A kill -INT from elsewhere looks the same
// while we are in the foreground, and is taken for a Ctrl-C.)
func fromTerminal(sig os.Signal) bool {
	if sig != unix.SIGINT && sig != unix.SIGQUIT {
		return false
	}
	terminal, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer terminal.Close()
	foreground, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPGRP)
	return err == nil && foreground == unix.Getpgrp()
}
