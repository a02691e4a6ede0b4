package storetest_test

import (
	"testing"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/memory"
	"github.com/podweft/podweft/subnet/storetest"
)

// In the _test.go file of a Store:
func Example() {
	_ = func(t *testing.T) { // func TestStore(t *testing.T)
		storetest.Run(t, storetest.Config{
			New: func(t *testing.T, network *subnet.Network) subnet.Store { return memory.New(network) },
		})
	}
	// Output:
}
