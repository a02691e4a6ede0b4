package etcd

import (
	"encoding/json"
	"net/netip"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

// value is what stands at a subnet's key: flannel's fields in flannel's order, then ours.
type value struct {
	PublicIP      string
	PublicIPv6    *string         // null without IPv6
	BackendType   string          `json:",omitempty"`
	BackendData   json.RawMessage `json:",omitempty"`
	BackendV6Data json.RawMessage `json:",omitempty"`

	Node string `json:",omitempty"` // flannel has none: a lease belongs to its address
}

// unknownAddr is how flannel writes an IPv4 address that it does not have.
var unknownAddr = netip.IPv4Unspecified()

func formatValue(l *subnet.Lease) (string, error) {
	v := value{PublicIP: unknownAddr.String(), BackendType: l.Backend, BackendData: l.Data.V4, BackendV6Data: l.Data.V6, Node: l.Node}
	if l.Underlay.V4.IsValid() {
		v.PublicIP = l.Underlay.V4.String()
	}
	if l.Underlay.V6.IsValid() {
		s := l.Underlay.V6.String()
		v.PublicIPv6 = &s
	}
	text, err := json.Marshal(v)
	return string(text), err
}

// parseValue fills in what the value says about the lease. What is sound of it is filled in beside the errors; named is whether
// it says whose it is.
func parseValue(raw []byte, l *subnet.Lease) (named bool, errs []error) {
	var v value
	if err := json.Unmarshal(raw, &v); err != nil {
		return false, []error{&podweft.FieldError{Field: "value", Problem: "is not what flannel writes", Remedy: err.Error()}}
	}
	addr := func(field, text string, is func(netip.Addr) bool) netip.Addr {
		a, err := netip.ParseAddr(text)
		switch {
		case text == "":
			return netip.Addr{}
		case err != nil || !is(a) || a.Zone() != "":
			errs = append(errs, &podweft.FieldError{Field: field, Value: shown(text), Problem: "is not an address of its family"})
			return netip.Addr{}
		case a.IsUnspecified():
			return netip.Addr{}
		}
		return a
	}
	l.Underlay.V4 = addr("PublicIP", v.PublicIP, netip.Addr.Is4)
	if v.PublicIPv6 != nil {
		l.Underlay.V6 = addr("PublicIPv6", *v.PublicIPv6, func(a netip.Addr) bool { return a.Is6() && !a.Is4In6() })
	}
	l.Backend, l.Data = v.BackendType, subnet.Data{V4: v.BackendData, V6: v.BackendV6Data}
	switch {
	case v.Node != "":
		l.Node = v.Node
	case l.Underlay.V4.IsValid():
		l.Node = l.Underlay.V4.String()
	case l.Underlay.V6.IsValid():
		l.Node = l.Underlay.V6.String()
	}
	return v.Node != "", errs
}

// shown is a stranger's text as an error quotes it.
func shown(text string) string {
	const most = 60
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}
