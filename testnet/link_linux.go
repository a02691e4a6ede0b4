package testnet

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// Link is a network link of a node, as it was when it was listed.
type Link struct {
	Index int
	Name  string
	Kind  string // "veth", "bridge", "vxlan"; "device" where the kernel says no more
	MAC   podweft.MAC
	MTU   int // bytes
	Up    bool
	Addrs []netip.Prefix
}

// Links lists the node's links with their addresses, by index; lo is the first.
func (n *Node) Links() ([]Link, error) {
	var links []Link
	err := n.configure(func(h *netlink.Handle) (err error) {
		links, err = listLinks(h)
		return opError("list", "links of "+n.Name, err)
	})
	return links, err
}

// SetUp brings a link up. A moment may pass before it carries packets.
func (n *Node) SetUp(link string) error {
	return n.onLink("bring up", link, (*netlink.Handle).LinkSetUp)
}

// SetDown takes a link down; the kernel then removes the routes over it. To cut a node's cable and leave its routes, take
// its port in [Fabric.Switch] down.
func (n *Node) SetDown(link string) error {
	return n.onLink("take down", link, (*netlink.Handle).LinkSetDown)
}

func (n *Node) onLink(op, link string, do func(*netlink.Handle, netlink.Link) error) error {
	return n.configure(func(h *netlink.Handle) error {
		l, err := h.LinkByName(link)
		if err == nil {
			err = do(h, l)
		}
		return opError(op, "link "+link+" of "+n.Name, err)
	})
}

func listLinks(h *netlink.Handle) ([]Link, error) {
	list, err := complete(h.LinkList)
	if err != nil {
		return nil, err
	}
	addrs, err := complete(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	byLink := map[int][]netip.Prefix{}
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		byLink[a.LinkIndex] = append(byLink[a.LinkIndex], netip.PrefixFrom(ip.Unmap(), bits))
	}
	links := make([]Link, len(list))
	for i, l := range list {
		a := l.Attrs()
		links[i] = Link{
			Index: a.Index, Name: a.Name, Kind: l.Type(), MTU: a.MTU, Up: a.RawFlags&unix.IFF_UP != 0, Addrs: byLink[a.Index],
		}
		copy(links[i].MAC[:], a.HardwareAddr)
		slices.SortFunc(links[i].Addrs, netip.Prefix.Compare)
	}
	slices.SortFunc(links, func(a, b Link) int { return cmp.Compare(a.Index, b.Index) })
	return links, nil
}

// complete asks again for a list that changed while the kernel gave it.
func complete[T any](list func() ([]T, error)) (all []T, err error) {
	for range 10 {
		all, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}
