package vxlan_test

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// The requests of linux/ethtool.h, as a person's `ethtool -K` would have them.
var ethtoolRequests = map[string]struct{ get, set uint32 }{
	"tx":  {unix.ETHTOOL_GTXCSUM, unix.ETHTOOL_STXCSUM},
	"gro": {unix.ETHTOOL_GGRO, unix.ETHTOOL_SGRO},
	"tso": {unix.ETHTOOL_GTSO, unix.ETHTOOL_STSO},
}

// feature asks the kernel whether the link has it on.
func feature(t testing.TB, n *testnet.Node, link, name string) bool {
	t.Helper()
	return ethtool(t, n, link, ethtoolRequests[name].get, 0) != 0
}

func setFeature(t testing.TB, n *testnet.Node, link, name string, on uint32) {
	t.Helper()
	ethtool(t, n, link, ethtoolRequests[name].set, on)
}

func ethtool(t testing.TB, n *testnet.Node, link string, command, value uint32) uint32 {
	t.Helper()
	data := [2]uint32{command, value}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data *[2]uint32
		_    [16]byte
	}{data: &data}
	copy(request.name[:], link)
	require.NoError(t, n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return errno
		}
		return nil
	}))
	return data[1]
}

func TestOffload(t *testing.T) {
	t.Parallel()
	type features struct{ tx, gro, tso bool }
	const link = "flannel.1"
	for _, tc := range []struct {
		name   string
		set    vxlan.Offload
		before func(t *testing.T, n *testnet.Node) // somebody at the VTEP that is there already
		want   features
		plan   string // of the VTEP that is there already
	}{
		{name: "left alone", want: features{true, true, true}},
		{name: "left as somebody set it", want: features{false, true, false}, before: func(t *testing.T, n *testnet.Node) {
			setFeature(t, n, link, "tx", 0)
		}},
		{name: "checksum off", set: vxlan.Offload{Checksum: vxlan.Off}, want: features{false, true, false}, // and TSO with it
			plan: "~ offload tx off dev flannel.1  # was on\n"},
		{name: "GRO off", set: vxlan.Offload{GRO: vxlan.Off}, want: features{true, false, true},
			plan: "~ offload gro off dev flannel.1  # was on\n"},
		{name: "both off", set: vxlan.Offload{Checksum: vxlan.Off, GRO: vxlan.Off}, want: features{false, false, false},
			plan: "~ offload tx off dev flannel.1  # was on\n~ offload gro off dev flannel.1  # was on\n"},
		{name: "on, as they are", set: vxlan.Offload{Checksum: vxlan.On, GRO: vxlan.On}, want: features{true, true, true}},
		{name: "on again", set: vxlan.Offload{Checksum: vxlan.On, GRO: vxlan.On}, want: features{true, true, true},
			before: func(t *testing.T, n *testnet.Node) {
				setFeature(t, n, link, "tx", 0)
				setFeature(t, n, link, "gro", 0)
			},
			plan: "~ offload tx on dev flannel.1  # was off\n~ offload gro on dev flannel.1  # was off\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			o := newOverlay(t, testnet.FabricConfig{}, nil)
			o.apply(t)
			n, d := o.fabric.Nodes[0], o.drivers[0]
			if tc.before != nil {
				tc.before(t, n)
			}
			o.specs[0].VTEPs[0].Offload = tc.set
			plan, err := d.Plan(t.Context(), o.specs[0])
			require.NoError(t, err)
			assert.Equal(t, tc.plan, plan.String())
			applied, err := d.Apply(t.Context(), o.specs[0])
			require.NoError(t, err)
			assert.Equal(t, tc.plan, applied.String())
			read := func() features {
				return features{feature(t, n, link, "tx"), feature(t, n, link, "gro"), feature(t, n, link, "tso")}
			}
			assert.Equal(t, tc.want, read())
			o.requireRepaired(t, 0)
			o.requireReachable(t)

			if tc.set == (vxlan.Offload{}) {
				return
			}
			sabotage.Keep(t, d, o.specs[0])
			setFeature(t, n, link, "tx", 1-ones(tc.want.tx))
			setFeature(t, n, link, "gro", 1-ones(tc.want.gro))
			requireSoon(t, func() bool { // what is not asked for stays as somebody left it
				is := read()
				return (tc.set.Checksum == vxlan.Keep) == (is.tx != tc.want.tx) && (tc.set.GRO == vxlan.Keep) == (is.gro != tc.want.gro)
			})

			h := inNode(t, n)
			require.NoError(t, h.LinkDel(linkNamed(t, h, link)))
			o.requireRepaired(t, 0)
			assert.Equal(t, tc.want, read(), "a VTEP made anew")
			o.requireReachable(t)
		})
	}
}

func ones(on bool) uint32 {
	if on {
		return 1
	}
	return 0
}

func TestOffloadOfANewVTEPIsInThePlan(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	spec := o.specs[0]
	spec.VTEPs[0].Offload = vxlan.Offload{Checksum: vxlan.Off, GRO: vxlan.On}
	plan, err := o.drivers[0].Plan(t.Context(), spec)
	require.NoError(t, err)
	assert.Contains(t, plan.String(), "~ offload tx off dev flannel.1\n")
	assert.NotContains(t, plan.String(), "gro", "it is on from the beginning")
	applied, err := o.drivers[0].Apply(t.Context(), spec)
	require.NoError(t, err)
	assert.Contains(t, applied.String(), "~ offload tx off dev flannel.1  # was on\n")
}

func TestOffloadIsValidated(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	o.specs[0].VTEPs[0].Offload.GRO = 7
	err := o.specs[0].Validate()
	require.ErrorIs(t, err, podweft.ErrInvalid)
	assert.EqualError(t, err, "VTEPs[0].Offload.GRO: Toggle(7) is not a setting: use Keep, On or Off")
}
