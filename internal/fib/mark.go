package fib

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nl"
)

// Mark is how an instance tells its routes and nexthop objects from everybody else's: both carry Protocol, and the routes
// go through nexthop objects whose ids lie in [First, First+idsPerOwner). A route is ours when both agree, so two
// owners take each other's only if two hashes collide at once (one pair in about 900,000).
type Mark struct {
	Protocol uint8
	First    uint32
}

const (
	// Protocols 193 to 253 are free: rtnetlink.h assigns up to 192, 254 and 255 are reserved by iproute2's rt_protos.
	firstProtocol, protocols = 193, 61
	// Automatic nexthop ids count up from 1; ours start at 2^30.
	firstNexthop, idsPerOwner, owners = 1 << 30, 1 << 16, 1 << 14
)

// MarkOf derives the mark of the instance named owner. It is the same on every node and after every restart.
func MarkOf(owner string) Mark {
	// Owners are often alike, "tenant-1" and "tenant-2": a simple hash such as FNV would give many of them one mark.
	hash := sha256.Sum256([]byte(owner))
	sum := binary.BigEndian.Uint64(hash[:])
	return Mark{
		Protocol: uint8(firstProtocol + sum%protocols),
		First:    firstNexthop + uint32(sum>>32)%owners*idsPerOwner,
	}
}

// owns reports whether the nexthop id lies in our range.
func (m Mark) owns(id uint32) bool { return id >= m.First && id-m.First < idsPerOwner }

// kernelMetric is metric as the kernel will list it.
func kernelMetric(p netip.Prefix, metric uint32) uint32 {
	return cmp.Or(metric, nl.UsualMetric(p))
}

// routeProtocolNames are the protocols people meet, for naming a foreign route.
var routeProtocolNames = map[uint8]string{
	unix.RTPROT_REDIRECT: "redirect", unix.RTPROT_KERNEL: "kernel", unix.RTPROT_BOOT: "boot", unix.RTPROT_STATIC: "static",
	unix.RTPROT_RA: "ra", unix.RTPROT_DHCP: "dhcp", unix.RTPROT_BIRD: "bird", unix.RTPROT_ZEBRA: "zebra", unix.RTPROT_BGP: "bgp",
}

// describe prints another program's route. dev is its link's name, if that is known.
func describe(r nl.Route, dev string) string {
	if dev == "" && r.Link != 0 {
		dev = fmt.Sprintf("link %d", r.Link)
	}
	return fmt.Sprintf("%s proto %s", r.Format(dev), cmp.Or(routeProtocolNames[r.Protocol], fmt.Sprint(r.Protocol)))
}
