package sabotage

import (
	"net"
	"net/netip"
	"testing"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/testnet"
)

// Bounce takes a link of the node down and up again.
func Bounce(t testing.TB, n *testnet.Node, name string) {
	t.Helper()
	must(t, n.Do(func() error { return whileDown(name, func(vnl.Link) error { return nil }) }))
}

// Rename gives a link of the node another name. Kernels before 6.2 demand that it is down then.
func Rename(t testing.TB, n *testnet.Node, from, to string) {
	t.Helper()
	must(t, n.Do(func() error {
		return whileDown(from, func(l vnl.Link) error { return vnl.LinkSetName(l, to) })
	}))
}

// whileDown puts back the IPv6 addresses that a link loses when it goes down, as whoever configures the host does.
func whileDown(name string, do func(vnl.Link) error) error {
	l, err := vnl.LinkByName(name)
	if err != nil {
		return err
	}
	lost, err := vnl.AddrList(l, unix.AF_INET6)
	if err != nil {
		return err
	}
	if err := vnl.LinkSetDown(l); err != nil {
		return err
	}
	if err := do(l); err != nil {
		return err
	}
	if err := vnl.LinkSetUp(l); err != nil {
		return err
	}
	for _, a := range lost {
		if err := vnl.AddrReplace(l, &vnl.Addr{IPNet: a.IPNet, Flags: unix.IFA_F_NODAD}); err != nil {
			return err
		}
	}
	return nil
}

// Move gives the node other underlay addresses, as a lease of DHCP does, and returns them by the old.
func Move(t testing.TB, n *testnet.Node) map[netip.Addr]netip.Addr {
	t.Helper()
	moved := map[netip.Addr]netip.Addr{}
	must(t, n.Do(func() error {
		l, err := vnl.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, old := range n.Addrs() {
			raw, bits := old.AsSlice(), map[bool]int{true: 24, false: 64}[old.Is4()] // a fabric's
			raw[len(raw)-1] = 77
			moved[old], _ = netip.AddrFromSlice(raw)
			mask := net.CIDRMask(bits, old.BitLen())
			if err := vnl.AddrDel(l, &vnl.Addr{IPNet: &net.IPNet{IP: old.AsSlice(), Mask: mask}}); err != nil {
				return err
			}
			if err := vnl.AddrAdd(l, &vnl.Addr{IPNet: &net.IPNet{IP: raw, Mask: mask}, Flags: unix.IFA_F_NODAD}); err != nil {
				return err
			}
		}
		return nil
	}))
	return moved
}
