package world

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/sysctl"
	"github.com/podweft/podweft/policy"
)

// IPVS takes a Service's packet in at the input hook, for the Service's address is the node's own, and sends it out through the output
// hook: none of the hooks between ever sees it. What follows is of linux/ip_vs.h, which speaks generic netlink.
const (
	ipvsNewService = 1
	ipvsNewDest    = 5
	ipvsFlush      = 17

	ipvsService, ipvsDest = 1, 2 // what a command is about

	ipvsFamily, ipvsProtocol, ipvsAddr, ipvsPort                     = 1, 2, 3, 4 // of a service
	ipvsScheduler, ipvsFlags, ipvsTimeout, ipvsNetmask               = 6, 7, 8, 9
	ipvsDestAddr, ipvsDestPort, ipvsMethod, ipvsWeight, ipvsU, ipvsL = 1, 2, 3, 4, 5, 6

	ipvsMasquerade = 0 // the method that only changes the destination
)

// byIPVS makes the Services of others as kube-proxy's IPVS mode does: their addresses are the node's own, and connections are known to
// conntrack. It throws away all others of the node.
func byIPVS(t testing.TB, n *Node) {
	t.Helper()
	n.Loud(t) // packets of Services come in by its own input
	services := []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:96::10")}
	for _, a := range services {
		must(t, n.handle.AddrReplace(n.lo(), &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD}))
	}
	must(t, n.Do(func() error {
		family, err := netlink.GenlFamilyGet("IPVS")
		if err != nil {
			return fmt.Errorf("IPVS: %w", err)
		}
		if err := sysctl.EnsureHere("net/ipv4/vs/conntrack", "1"); err != nil {
			return err
		}
		if err := ipvs(family.ID, ipvsFlush); err != nil {
			return err
		}
		for i, a := range services {
			for port := range uint16(2) {
				service := serviceOf(a, 8080+port)
				if err := ipvs(family.ID, ipvsNewService, service); err != nil {
					return err
				}
				if err := ipvs(family.ID, ipvsNewDest, service, destOf(Village().Pods[0].Addresses[i], 80+port)); err != nil {
					return err
				}
			}
		}
		return nil
	}))
}

// hasIPVS reports whether the kernel has it; with PODWEFT_REQUIRE_IPVS=1 in the environment, as in hack/vmtest, it fails where there
// is none.
func hasIPVS(t testing.TB) bool {
	t.Helper()
	_, err := netlink.GenlFamilyGet("IPVS")
	if errors.Is(err, unix.ENOENT) && os.Getenv("PODWEFT_REQUIRE_IPVS") != "1" {
		t.Log("not tested, which make vmtest does: the kernel has no IPVS")
		return false
	}
	must(t, err)
	return true
}

// ipvs sends a command in the namespace that it is called in.
func ipvs(family uint16, command uint8, about ...*nl.RtAttr) error {
	request := nl.NewNetlinkRequest(int(family), unix.NLM_F_ACK)
	request.AddData(&nl.Genlmsg{Command: command, Version: 1})
	for _, a := range about {
		request.AddData(a)
	}
	if _, err := request.Execute(unix.NETLINK_GENERIC, 0); err != nil {
		return fmt.Errorf("IPVS command %d: %w", command, err)
	}
	return nil
}

func serviceOf(a netip.Addr, port uint16) *nl.RtAttr {
	family, mask := uint16(unix.AF_INET), uint32(0xffffffff)
	if a.Is6() {
		family, mask = unix.AF_INET6, 128
	}
	s := nl.NewRtAttr(ipvsService|unix.NLA_F_NESTED, nil)
	s.AddRtAttr(ipvsFamily, nl.Uint16Attr(family))
	s.AddRtAttr(ipvsProtocol, nl.Uint16Attr(uint16(policy.TCP)))
	s.AddRtAttr(ipvsAddr, wide(a))
	s.AddRtAttr(ipvsPort, binary.BigEndian.AppendUint16(nil, port))
	s.AddRtAttr(ipvsScheduler, nl.ZeroTerminated("rr"))
	s.AddRtAttr(ipvsFlags, append(nl.Uint32Attr(0), nl.Uint32Attr(0xffffffff)...))
	s.AddRtAttr(ipvsTimeout, nl.Uint32Attr(0))
	s.AddRtAttr(ipvsNetmask, nl.Uint32Attr(mask))
	return s
}

func destOf(a netip.Addr, port uint16) *nl.RtAttr {
	d := nl.NewRtAttr(ipvsDest|unix.NLA_F_NESTED, nil)
	d.AddRtAttr(ipvsDestAddr, wide(a))
	d.AddRtAttr(ipvsDestPort, binary.BigEndian.AppendUint16(nil, port))
	for attr, value := range map[int]uint32{ipvsMethod: ipvsMasquerade, ipvsWeight: 1, ipvsU: 0, ipvsL: 0} {
		d.AddRtAttr(attr, nl.Uint32Attr(value))
	}
	return d
}

// wide is an address in the 16 bytes that the kernel has for either family.
func wide(a netip.Addr) []byte {
	return append(a.AsSlice(), make([]byte, 16-len(a.AsSlice()))...)
}
