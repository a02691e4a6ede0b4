package links_test

import (
	"fmt"

	"github.com/podweft/podweft/internal/links"
	"github.com/podweft/podweft/internal/nl"
)

func ExampleChanges() {
	have := nl.Link{Name: "flannel.1", MTU: 1500}
	var c links.Changes
	c.Common(nl.Link{MTU: 1450, Up: true}, have)
	fmt.Println(c.Note)
	// Output: was mtu 1500, was down
}
