package forward_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/forward"
)

// A node keeps its pods' packets passing, also when Docker is started later.
func Example() {
	d, err := forward.New(forward.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	loop := podweft.NewLoop(d, podweft.LoopConfig{})
	loop.Set(forward.Spec{Networks: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}})
	if err := loop.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func ExampleSpec_Validate() {
	fmt.Println(forward.Spec{Networks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}.Validate())
	// Output: Networks[0]: 0.0.0.0/0 is everything: name the pods' network: the rest is the firewall's business
}
