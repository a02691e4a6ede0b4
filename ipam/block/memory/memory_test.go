package memory_test

import (
	"testing"

	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ipam/block/blocktest"
	"github.com/podweft/podweft/ipam/block/memory"
)

func TestStore(t *testing.T) {
	blocktest.Run(t, blocktest.Config{New: func(*testing.T) block.Store { return memory.New() }})
}
