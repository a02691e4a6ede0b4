package cable

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/word"
)

const (
	// maxName is IFNAMSIZ of linux/if.h, without the closing zero.
	maxName = 15
	// maxOwner and maxContainer keep an alias below IFALIASZ of linux/if.h, 256: "podweft:", an owner, a container, a link.
	maxOwner     = 64
	maxContainer = 160

	minMTU4, minMTU6 = 68, 1280 // RFC 791, RFC 8200
)

// Fields collects what is wrong with a value's fields.
type Fields struct{ errs []error }

// Err joins it, each a [*podweft.FieldError]; nil when nothing is.
func (f *Fields) Err() error { return errors.Join(f.errs...) }

// Add adds something.
func (f *Fields) Add(field string, value any, problem, remedy string) {
	f.errs = append(f.errs, &podweft.FieldError{Field: field, Value: value, Problem: problem, Remedy: remedy})
}

// Owner checks that an owner can be part of a mark; empty is whoever is the default.
func (f *Fields) Owner(owner string) {
	if owner != "" && !word.Valid(owner, maxOwner) {
		f.Add("Owner", owner, "cannot be part of a mark",
			"use up to 64 letters, digits, dots, dashes and underscores, a letter or digit first")
	}
}

// ID checks what a port cannot do without even to be detached.
func (f *Fields) ID(id ID) {
	switch {
	case id.Container == "":
		f.Add("Port.Container", nil, "is missing", "say whose port it is: a container's ID, a pod's name")
	case len(id.Container) > maxContainer || strings.ContainsFunc(id.Container, func(r rune) bool { return !unicode.IsPrint(r) }):
		f.Add("Port.Container", fmt.Sprintf("%q", id.Container), "cannot be part of a mark", fmt.Sprintf("use at most %d bytes, all printable", maxContainer))
	}
	if id.Name == "lo" {
		f.Add("Port.Name", id.Name, "is the pod's loopback link", "use another name, such as eth0")
	} else if id.Name != "" {
		f.Name("Port.Name", id.Name)
	}
	if id.HostName != "" {
		f.Name("Port.HostName", id.HostName)
	}
}

// Name checks that the kernel takes name for a link: dev_valid_name in net/core/dev.c.
func (f *Fields) Name(field, name string) {
	bad := func(r rune) bool {
		return r == '/' || r == ':' || r == '%' || unicode.IsSpace(r) || !unicode.IsPrint(r)
	}
	if len(name) > maxName || name == "." || name == ".." || strings.ContainsFunc(name, bad) {
		f.Add(field, fmt.Sprintf("%q", name), "is not a name for a link", "use at most 15 letters, digits, dashes and dots")
	}
	if name == "all" || name == "default" { // sysctl_dev_name_is_allowed in include/linux/inetdevice.h
		f.Add(field, fmt.Sprintf("%q", name), "is not a name for a link", "use another: the kernel has this one for settings of every link")
	}
}

// NetNS checks that the pod's namespace is given.
func (f *Fields) NetNS(path string) {
	if path == "" {
		f.Add("Port.NetNS", nil, "is missing", "give the path of the pod's network namespace")
	}
}

// MAC checks that a MAC is one that a link can have.
func (f *Fields) MAC(field string, mac podweft.MAC) {
	if !mac.IsZero() && !mac.IsUnicast() {
		f.Add(field, mac, "is not one station's address", "leave it out, or use one made by podweft.NewMAC")
	}
}

// MTU checks that it is enough for packets to and from the addresses.
func (f *Fields) MTU(field string, mtu int, six bool) {
	least := minMTU4
	if six {
		least = minMTU6
	}
	if mtu != 0 && (mtu < least || mtu > 65535) {
		f.Add(field, mtu, "is not an MTU", fmt.Sprintf("use %d to 65535", least))
	}
}

// Address checks that it is one that an interface can have.
func (f *Fields) Address(field string, a netip.Prefix) {
	ip := a.Addr()
	switch {
	case !a.IsValid():
		f.Add(field, nil, "is not an address with a prefix length", "write one like 10.244.1.2/24")
	case ip.Is4In6():
		f.Add(field, a, "is an IPv4 address written as IPv6", "write "+ip.Unmap().String()+" and its own prefix length")
	case !ip.IsGlobalUnicast():
		f.Add(field, a, "is not an address that packets can be sent to", "")
	case a == a.Masked() && a.Bits() < ip.BitLen()-1: // but RFC 3021 and RFC 6164
		f.Add(field, a, "is the subnet's own address", "use "+ip.Next().String()+" or a later one")
	case ip.Is4() && a.Bits() < ip.BitLen()-1 && !a.Contains(ip.Next()):
		f.Add(field, a, "is the subnet's broadcast address", "use "+ip.Prev().String()+" or an earlier one")
	}
}
