package nat_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/nat"
)

// A node keeps its masquerade for as long as it runs.
func Example() {
	d, err := nat.New(nat.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	loop := podweft.NewLoop(d, podweft.LoopConfig{})
	loop.Set(nat.Spec{
		Masquerade: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
		Exempt:     []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
	})
	if err := loop.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func ExampleSpec_Validate() {
	err := nat.Spec{Masquerade: []netip.Prefix{netip.MustParsePrefix("10.244.1.1/24")}}.Validate()
	fmt.Println(err)
	// Output: Masquerade[0]: 10.244.1.1/24 has bits set behind its prefix length: write 10.244.1.0/24
}
