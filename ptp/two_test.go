package ptp_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/ptp"
)

// joined attaches a pod twice, for one owner or for two.
func joined(t *testing.T, owner string) (h *host, pod *machine, net *ptp.Attacher, first, other ptp.Port) {
	h = newHost(t, ptp.Config{})
	pod = newMachine(t, "pod")
	net = h.attacher(t, ptp.Config{Owner: owner})
	first, other = port(dual, pod, 2), port(dual, pod, 3)
	other.Name = "net1"
	h.attach(t, first)
	_, err := net.Attach(t.Context(), other)
	require.NoError(t, err)
	return h, pod, net, first, other
}

func TestTwoPortsOfAPod(t *testing.T) {
	for _, owner := range []string{"podweft", "red"} {
		t.Run(owner, func(t *testing.T) {
			h, pod, net, first, other := joined(t, owner)
			behind := fmt.Sprint(" metric ", 2000+pod.link(t, "net1").Index)
			assert.Equal(t, []string{
				"route 0.0.0.0/0 via 169.254.1.1 dev eth0", "route 0.0.0.0/0 via 169.254.1.1 dev net1" + behind,
				"route 169.254.1.1/32 dev eth0", "route 169.254.1.1/32 dev net1" + behind,
				"route ::/0 via fe80::1 dev eth0 metric 1024", "route ::/0 via fe80::1 dev net1" + behind,
				"route fd00:244::2/128 dev eth0 metric 256", "route fd00:244::3/128 dev net1 metric 256",
			}, pod.routes(t))
			for _, a := range append(first.Addresses, other.Addresses[1]) { // why not the other's IPv4 one: doc.go
				h.ping(t, a)
			}
			require.NoError(t, h.pods.Check(t.Context(), first))
			require.NoError(t, net.Check(t.Context(), other))
			before := pod.state(t)
			h.attach(t, first)
			_, err := net.Attach(t.Context(), other)
			require.NoError(t, err)
			assert.Equal(t, before, pod.state(t), "attached again")
		})
	}
}

// Whichever of the two goes, the other stays and is the way to everything.
func TestOneOfTwoPortsGoes(t *testing.T) {
	for _, owner := range []string{"podweft", "red"} {
		t.Run(owner, func(t *testing.T) {
			h, pod, net, first, other := joined(t, owner)
			require.NoError(t, h.pods.Detach(t.Context(), first))
			require.NoError(t, net.Check(t.Context(), other))
			_, peer := h.attachNew(t, dual, 4)
			for i, a := range other.Addresses {
				h.ping(t, a)
				pod.ping(t, peer.Addresses[i])
			}
			h.attach(t, first)
			require.NoError(t, net.Detach(t.Context(), other))
			require.NoError(t, h.pods.Check(t.Context(), first))
			for i, a := range first.Addresses {
				h.ping(t, a)
				pod.ping(t, peer.Addresses[i])
			}
		})
	}
}
