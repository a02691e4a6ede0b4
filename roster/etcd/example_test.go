package etcd_test

import (
	"fmt"

	"github.com/podweft/podweft/roster/etcd"
)

// New does not wait for etcd: only who asks for nodes does.
func ExampleNew() {
	store, err := etcd.New(etcd.Config{Endpoints: []string{"http://10.0.0.1:2379"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()

	_, err = etcd.New(etcd.Config{Endpoints: []string{"10.0.0.1:2379"}})
	fmt.Println(err)
	// Output:
	// Endpoints: "10.0.0.1:2379" is not a URL: write "http://10.0.0.1:2379"
}
