package memory_test

import (
	"testing"

	"github.com/podweft/podweft/roster"
	"github.com/podweft/podweft/roster/memory"
	"github.com/podweft/podweft/roster/rostertest"
)

func TestStore(t *testing.T) {
	rostertest.Run(t, rostertest.Config{New: func(*testing.T) roster.Store { return memory.New() }})
}
