package nat

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
)

// BenchmarkElementsOf is of one pod that publishes a range.
func BenchmarkElementsOf(b *testing.B) {
	for _, count := range []int{1, 100, 20000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			spec := PortSpec{}
			for i := range count {
				pod := netip.AddrPortFrom(netip.MustParseAddr("10.244.1.2"), uint16(20000+i))
				spec.Ports = append(spec.Ports, HostPort{Protocol: TCP, Port: pod.Port(), Pod: pod})
			}
			t := newPortTable(tableName(DefaultOwner, "hostports"))
			for b.Loop() {
				assert.Len(b, t.elementsOf(spec)[t.ours4], count)
			}
		})
	}
}
