package file_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/file"
)

// Two processes of one machine would each open the same directory. Here one program does it twice.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "leases")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	conf := []byte(`{"Network": "10.244.0.0/16", "SubnetMin": "10.244.8.0", "SubnetMax": "10.244.8.0"}`)
	if err := os.WriteFile(filepath.Join(dir, "net-conf.json"), conf, 0o644); err != nil {
		log.Fatal(err)
	}

	first, err := file.New(dir)
	if err != nil {
		log.Fatal(err)
	}
	lease, err := first.Acquire(ctx, subnet.Claim{Node: "node-1"})
	fmt.Println(lease, err)

	second, err := file.New(dir)
	if err != nil {
		log.Fatal(err)
	}
	_, err = second.Acquire(ctx, subnet.Claim{Node: "node-2"})
	fmt.Println(err)
	// Output:
	// 10.244.8.0/24 of node-1 <nil>
	// no free subnet: every /24 from 10.244.8.0 to 10.244.8.0 is taken (1)
}
