package etcd

import (
	"net/netip"
	"path"
	"regexp"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

// keys are the names of things below the prefix.
type keys struct{ prefix string }

func (k keys) config() string            { return path.Join(k.prefix, "config") }
func (k keys) subnets() string           { return path.Join(k.prefix, "subnets") + "/" }
func (k keys) subnet(name string) string { return k.subnets() + name }

// listed is the end of the range from config on that a listing and a watch read: config and all subnets. The claims come before
// config, so that nobody reads them in passing.
func (k keys) listed() string { return clientv3.GetPrefixRangeEnd(k.subnets()) }

// nodeClaim says which lease is the node's: the value is the lease's name. One node's claims, made at once, meet here.
func (k keys) nodeClaim(node string) string { return path.Join(k.prefix, "claims/nodes") + "/" + node }

// prefixClaim says which lease has an IPv6 subnet. In IPv4 the lease's own key says so.
func (k keys) prefixClaim(p netip.Prefix) string {
	return path.Join(k.prefix, "claims/subnets") + "/" + part(p)
}

// reservations changes with each reservation: claims that know the others but not the last one fail.
func (k keys) reservations() string { return path.Join(k.prefix, "claims/reservations") }

// leasedForm begins the name of a lease whose own name a reservation has. flannel reads the end of a key only.
const leasedForm = "leased/"

// noIPv4 stands for the missing half of a lease in IPv6 alone, as flannel has it.
const noIPv4 = "0.0.0.0-0"

func part(p netip.Prefix) string { return strings.ReplaceAll(p.String(), "/", "-") }

// formatName is the name of the subnets' lease or reservation, as flannel makes it.
func formatName(p subnet.Prefixes) string {
	name := noIPv4
	if p.V4.IsValid() {
		name = part(p.V4)
	}
	if p.V6.IsValid() {
		name += "&" + part(p.V6)
	}
	return name
}

// stem is what the names of all leases and reservations begin with that have the IPv4 subnet; of those in IPv6 alone, the name.
func stem(p subnet.Prefixes) string {
	if p.V4.IsValid() {
		return part(p.V4)
	}
	return formatName(p)
}

var nameForm = regexp.MustCompile(`^(` + leasedForm + `)?([0-9.]+)-([0-9]+)(?:&([0-9a-f:]+)-([0-9]+))?$`)

// parseName reads what formatName made. flannel's leases in IPv6 alone have any length after 0.0.0.0.
func parseName(name string) (p subnet.Prefixes, leased bool, err error) {
	m := nameForm.FindStringSubmatch(name)
	bad := &podweft.FieldError{Field: "key", Value: name, Problem: "does not name a subnet", Remedy: `one reads like "10.244.3.0-24"; delete it if nobody needs it`}
	if m == nil {
		return p, false, bad
	}
	if m[4] != "" {
		if p.V6, err = netip.ParsePrefix(m[4] + "/" + m[5]); err != nil || p.V6.Addr().Is4In6() {
			return subnet.Prefixes{}, false, bad
		}
	}
	if m[2] == "0.0.0.0" && p.V6.IsValid() {
		return p, m[1] != "", nil
	}
	if p.V4, err = netip.ParsePrefix(m[2] + "/" + m[3]); err != nil {
		return subnet.Prefixes{}, false, bad
	}
	return p, m[1] != "", nil
}
