package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
)

// The shell's `lab` is this program too. It has no cluster, so it asks the one that has: over a unix socket, one JSON
// document there and one back.

// socketVar tells the shell's `lab` where the socket is.
const socketVar = "PODWEFT_LAB"

type request struct {
	Args  []string
	Color bool
}

type answer struct {
	Text  string   // for standard output
	Error string   // for standard error
	Usage bool     // Error is about the command line
	Path  string   // a program to become, if any,
	Argv  []string // and its arguments
}

// isCommand reports whether a word of the command line is for the lab that is running.
func isCommand(word string) bool {
	return slices.Contains([]string{"show", "exec", "ping", "trace", "policy", "why", "label", "agents", "start"}, word)
}

// ask sends the command to the running lab, prints its answer and returns the exit status.
func ask(args []string) int {
	a, err := exchange(args)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "lab:", err)
		return exitFailed
	case a.Path != "":
		err := syscall.Exec(a.Path, a.Argv, os.Environ())
		fmt.Fprintln(os.Stderr, "lab:", err)
		return exitFailed
	}
	fmt.Print(a.Text)
	if a.Error == "" {
		return exitGood
	}
	fmt.Fprintln(os.Stderr, "lab:", a.Error)
	if a.Usage {
		return exitUsage
	}
	return exitFailed
}

func exchange(args []string) (a answer, err error) {
	path := os.Getenv(socketVar)
	if path == "" {
		return a, fmt.Errorf("%s works in the shell of a running lab: start one with --keep", args[0])
	}
	if args[0] == "exec" && len(args) > 2 {
		// Where the user's PATH and working directory are known.
		if args[2], err = exec.LookPath(args[2]); err != nil {
			return a, err
		}
		if args[2], err = filepath.Abs(args[2]); err != nil {
			return a, err
		}
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		return a, fmt.Errorf("the lab does not answer: %w", err)
	}
	defer conn.Close()
	color := os.Getenv("NO_COLOR") == "" && isTerminal(os.Stdout)
	if err := json.NewEncoder(conn).Encode(request{args, color}); err != nil {
		return a, fmt.Errorf("ask the lab: %w", err)
	}
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		return a, fmt.Errorf("the lab's answer: %w", err)
	}
	return a, nil
}
