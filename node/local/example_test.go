package local_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/podweft/podweft/node/local"
)

// An agent that lets pods start, and a plugin that asks it.
func Example() {
	dir, err := os.MkdirTemp("", "local")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(context.Background())
	path := filepath.Join(dir, "agent.sock")
	pod := local.Record{
		Network: "pods", Container: "4f1b", Interface: "eth0",
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.1.2/32")},
		Pod:       local.Pod{Namespace: "default", Name: "web-0"},
	}
	plugin := local.NewClient(path)

	err = plugin.Attach(ctx, pod)
	fmt.Println("no agent yet:", errors.Is(err, local.ErrNoAgent))

	server, err := local.Listen(local.ServerConfig{Path: path, Handler: doorman{}})
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- server.Run(ctx) }()

	fmt.Println(plugin.Attach(ctx, pod))
	pod.Pod.Name = "db-0"
	err = plugin.Attach(ctx, pod)
	fmt.Println(err)
	fmt.Println("try again:", errors.Is(err, local.ErrTryAgain))

	cancel()
	if err := <-done; err != nil {
		log.Fatal(err)
	}
	// Output:
	// no agent yet: true
	// <nil>
	// attach pods/4f1b/eth0: agent: policy for default/db-0 is not in force: try again later
	// try again: true
}

// doorman lets web-0 in.
type doorman struct{}

func (doorman) Attach(_ context.Context, rec local.Record) error {
	if rec.Pod.Name != "web-0" {
		return fmt.Errorf("policy for %s/%s is not in force: %w", rec.Pod.Namespace, rec.Pod.Name, local.ErrTryAgain)
	}
	return nil
}

func (doorman) Detach(context.Context, []local.Key) error { return nil }

func (doorman) Claim(context.Context, local.Claim) ([]local.Address, error) {
	return nil, local.ErrExhausted
}

func (doorman) Status(context.Context) (local.Status, error) { return local.Status{Ready: true}, nil }

// An agent that was started anew reads what plugins have left.
func ExampleRecords() {
	dir, err := os.MkdirTemp("", "attachments")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	records, err := local.Open(dir, "")
	if err != nil {
		log.Fatal(err)
	}
	err = records.Put(local.Record{
		Network: "pods", Container: "4f1b", Interface: "eth0", HostName: "veth4f1b",
		HostPorts: []local.HostPort{{Protocol: "tcp", Host: 8080, Pod: 80}},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pods:torn:eth0"), []byte(`{"net`), 0o600); err != nil {
		log.Fatal(err)
	}

	all, problems, err := records.All("pods")
	if err != nil {
		log.Fatal(err)
	}
	for _, rec := range all {
		fmt.Println(rec.Key(), "on", rec.HostName, "with", len(rec.HostPorts), "host port")
	}
	fmt.Println(len(problems), "left out")
	// Output:
	// pods/4f1b/eth0 on veth4f1b with 1 host port
	// 1 left out
}
