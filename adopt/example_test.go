package adopt_test

import (
	"context"
	"fmt"
	"log"

	"github.com/podweft/podweft/adopt"
	"github.com/podweft/podweft/subnet"
)

// What a takeover would change is shown, and nothing is changed.
func Example() {
	network, err := subnet.ParseNetwork([]byte(`{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}`))
	if err != nil {
		log.Fatal(err)
	}
	f, err := adopt.NewFlannel(adopt.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	plan, err := f.Plan(context.Background(), &subnet.Snapshot{Network: network}) // a store's has leases too
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(plan)
}
