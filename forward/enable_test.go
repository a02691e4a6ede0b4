package forward_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/forward"
	"github.com/podweft/podweft/internal/sysctl"
	"github.com/podweft/podweft/testnet"
)

func TestEnable(t *testing.T) {
	host := testnet.NewNode(t, "host")
	networks := spec().Networks
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} { // a new namespace may have the machine's
		require.NoError(t, sysctl.Ensure(host.NetNS(), key, "0"))
	}
	for _, bad := range []netip.Prefix{{}, netip.MustParsePrefix("::ffff:10.0.0.0/104")} {
		err := forward.Enable(host.NetNS(), networks[1], bad)
		require.ErrorIs(t, err, podweft.ErrInvalid)
		assert.EqualError(t, err, "networks[1]: "+bad.String()+" is not a network: write one like 10.244.0.0/16")
		_, err = forward.PlanEnable(host.NetNS(), bad)
		require.ErrorIs(t, err, podweft.ErrInvalid)
	}
	plan, err := forward.PlanEnable(host.NetNS(), networks...)
	require.NoError(t, err)
	assert.Equal(t, "~ sysctl net/ipv4/ip_forward=1\n~ sysctl net/ipv6/conf/all/forwarding=1\n", plan.String(), "nothing was changed")

	require.NoError(t, forward.Enable(host.NetNS(), networks[1]))
	value, err := sysctl.Get(host.NetNS(), "net/ipv4/ip_forward")
	require.NoError(t, err)
	assert.Equal(t, "0", value)
	require.NoError(t, forward.Enable(host.NetNS(), networks...))
	plan, err = forward.PlanEnable(host.NetNS(), networks...)
	require.NoError(t, err)
	assert.Empty(t, plan)

	var op *podweft.OpError
	require.ErrorAs(t, forward.Enable("/run/netns/gone", networks...), &op)
}
