package testnet

import (
	"errors"
	"net/netip"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/netns"
)

// loopback is lo's index in every namespace (LOOPBACK_IFINDEX, include/net/flow.h).
const loopback = 1

// Node is one network namespace: a machine of a [Fabric], or a lone one (a pod, say). It is safe for concurrent use.
type Node struct {
	// Name is what it was built with.
	Name string
	// V4 and V6 are its addresses on the underlay; the zero Addr where it has none of that family.
	V4, V6 netip.Addr

	path  string
	id    string // as in "net:[4026532574]", the kernel's name for the namespace
	close func() error
}

// NewNode builds a lone node for a test: a namespace with a loopback link that is up, and nothing else. It ends with the
// test, which then fails if it left anything behind in the node.
func NewNode(t TB, name string) *Node {
	t.Helper()
	Require(t)
	n, err := BuildNode(name)
	if err != nil {
		t.Fatalf("testnet: %v", err)
	}
	cleanUp(t, n.Close, n)
	return n
}

// BuildNode builds a lone node for a program, which must Close it. It needs the privileges that [Enter] gives.
func BuildNode(name string) (*Node, error) {
	f, err := netns.New()
	if err != nil {
		return nil, &podweft.OpError{Op: "create", Object: podweft.Named("node " + name), Err: err}
	}
	n := &Node{Name: name, path: netns.Path(f), close: sync.OnceValue(f.Close)}
	if n.id, err = os.Readlink(n.path); err == nil {
		err = n.configure(func(h *netlink.Handle) error {
			return opError("bring up", "link lo of "+name, h.LinkSetUp(linkAt(loopback)))
		})
	}
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// NetNS is the path of the node's namespace, for the NetNS field of a driver's Config. This process and its children can
// open it until Close.
func (n *Node) NetNS() string { return n.path }

// Do runs fn inside the node and returns its error. A socket that fn opens stays inside and works from any goroutine
// afterwards; a goroutine that fn starts, and a name that it resolves, would be outside.
func (n *Node) Do(fn func() error) error { return netns.Do(n.path, fn) }

// Close lets go of the namespace. The kernel removes it, and the links in it, when the last process, socket and mount in it
// is gone as well.
func (n *Node) Close() error { return n.close() }

// Addrs are the node's addresses on the underlay, IPv4 first.
func (n *Node) Addrs() []netip.Addr {
	var all []netip.Addr
	for _, a := range []netip.Addr{n.V4, n.V6} {
		if a.IsValid() {
			all = append(all, a)
		}
	}
	return all
}

// configure runs fn with an rtnetlink socket of the node.
func (n *Node) configure(fn func(h *netlink.Handle) error) error {
	h, err := n.dial()
	if err != nil {
		return err
	}
	defer h.Close()
	return fn(h)
}

func (n *Node) dial() (h *netlink.Handle, err error) {
	err = n.Do(func() error {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	return h, opError("open", "netlink socket in "+n.Name, err)
}

// open opens the namespace for a message that names it by descriptor.
func (n *Node) open() (*os.File, error) { return os.Open(n.path) }

func linkAt(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

// opError is nil for a nil err.
func opError(op, object string, err error) error {
	if err == nil {
		return nil
	}
	return &podweft.OpError{Op: op, Object: podweft.Named(object), Err: err}
}
