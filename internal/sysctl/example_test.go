package sysctl_test

import (
	"fmt"

	"github.com/podweft/podweft/internal/netns"
	"github.com/podweft/podweft/internal/sysctl"
)

// A node that forwards, and an error that says which parameter it is about.
func ExampleEnsure() {
	f, err := netns.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	fmt.Println(sysctl.Ensure(netns.Path(f), "net/ipv4/ip_forward", "1"))
	fmt.Println(sysctl.Ensure(netns.Path(f), "net/ipv4/ip_default_ttl", "1000") != nil)
	// Output:
	// <nil>
	// true
}
