package cable

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/podweft/podweft"
)

// ID is which port it is: a container's link.
type ID struct {
	Container, Name string
	HostName        string // of the node's end
}

// MarkOf is the alias of an owner's links; those of its ports begin with it.
func MarkOf(owner string) string { return "podweft:" + owner }

func (id ID) mark(owner string) string { return MarkOf(owner) + "/" + id.Container + "/" + id.Name }

// Bears reports whether a link with that alias is of the owner who marks with mark. An owner has no slash in its name.
func Bears(alias, mark string) bool {
	return alias == mark || strings.HasPrefix(alias, mark+"/")
}

// HostName is a name for the node's end, always the same. It is as long as a link's name may be: of its 44 bits no two are
// likely to be the same on a node.
func HostName(owner, container, name string) string {
	sum := digest("host name", owner, container, name)
	return "veth" + hex.EncodeToString(sum[:])[:maxName-len("veth")]
}

// digest is what names and MACs are derived from: the same for the same parts, on every node and after every restart.
func digest(parts ...string) [sha256.Size]byte {
	return sha256.Sum256([]byte(strings.Join(parts, "\x00")))
}

// DeriveMAC returns a locally administered unicast address (IEEE 802: bit 1 of the first octet set, bit 0 clear).
func DeriveMAC(parts ...string) podweft.MAC {
	sum := digest(parts...)
	mac := podweft.MAC(sum[:len(podweft.MAC{})])
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}

// hostMAC is given for two reasons: systemd-udevd changes a random MAC of a new link, and it says whose the link is until
// the alias does (see Ours).
func (id ID) hostMAC(owner string) podweft.MAC {
	return DeriveMAC("host", owner, id.Container, id.Name)
}

// PodMAC is that of the pod's end: of its first address, which a later pod with that address then has too, or where it has none
// of the port.
func PodMAC(owner string, id ID, first string) podweft.MAC {
	if first != "" {
		return DeriveMAC("pod", first)
	}
	return DeriveMAC("pod", owner, id.Container, id.Name)
}
