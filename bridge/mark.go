package bridge

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/podweft/podweft"
)

// markOf is the alias of an owner's bridge; those of its ports begin with it.
func markOf(owner string) string { return "podweft:" + owner }

func portMark(owner, container, name string) string {
	return markOf(owner) + "/" + container + "/" + name
}

// bears reports whether a link with that alias is of the owner who marks with mark. An owner has no slash in its name.
func bears(alias, mark string) bool {
	return alias == mark || strings.HasPrefix(alias, mark+"/")
}

// digest is what names and MACs are derived from: the same for the same parts, on every node and after every restart.
func digest(parts ...string) [sha256.Size]byte {
	return sha256.Sum256([]byte(strings.Join(parts, "\x00")))
}

// hostName is as long as a link's name may be. Of its 44 bits no two are likely to be the same on a node.
func hostName(owner, container, name string) string {
	sum := digest("host name", owner, container, name)
	return "veth" + hex.EncodeToString(sum[:])[:maxName-len("veth")]
}

// deriveMAC returns a locally administered unicast address (IEEE 802: bit 1 of the first octet set, bit 0 clear).
func deriveMAC(parts ...string) podweft.MAC {
	sum := digest(parts...)
	mac := podweft.MAC(sum[:len(podweft.MAC{})])
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}

func bridgeMAC(owner string, b Bridge) podweft.MAC {
	if len(b.Gateways) > 0 {
		return deriveMAC("bridge", b.Gateways[0].Addr().String())
	}
	return deriveMAC("bridge", owner, b.Name)
}

// hostMAC is given for two reasons: systemd-udevd changes a random MAC of a new link, and it says whose the link is until
// the alias does (see ours).
func hostMAC(owner string, p Port) podweft.MAC {
	return deriveMAC("host", owner, p.Container, p.Name)
}

func podMAC(owner string, p Port) podweft.MAC {
	if len(p.Addresses) > 0 {
		return deriveMAC("pod", p.Addresses[0].Addr().String())
	}
	return deriveMAC("pod", owner, p.Container, p.Name)
}
