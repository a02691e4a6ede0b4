package cniplugin

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/podweft/podweft/bridge"
)

// previous is the result of the plugins before this one, or of the ADD that a CHECK or DEL is about; nil when there is none.
func (c *config) previous() (*types100.Result, error) {
	var fields map[string]any
	if len(c.PrevResult) > 0 {
		if err := json.Unmarshal(c.PrevResult, &fields); err != nil {
			return nil, fail(CodeDecode, "prevResult is not a result as CNI has it", err)
		}
	}
	if len(fields) == 0 { // null and {} come too
		return nil, nil
	}
	if at := null("prevResult", fields); at != "" {
		return nil, &Error{Code: CodeDecode, Msg: at + " is null: leave it out"}
	}
	raw := []byte(c.PrevResult)
	if v, _ := fields["cniVersion"].(string); v == "" { // before 1.0.0 it may be left out
		fields["cniVersion"] = c.CNIVersion
		raw, _ = json.Marshal(fields)
	}
	r, err := create.Create(c.CNIVersion, raw)
	if err != nil {
		return nil, fail(CodeDecode, "prevResult is not a result as CNI has it", err)
	}
	full, err := types100.GetResult(r)
	if err != nil {
		return nil, fail(CodeDecode, "prevResult cannot be converted", err)
	}
	return full, nil
}

// null names the first entry of a list in what was decoded that is null, empty when none is. No result has one, and who converts
// it to another version, the library of CNI included, looks at what is not there.
func null(name string, decoded any) string {
	switch v := decoded.(type) {
	case map[string]any:
		for _, field := range slices.Sorted(maps.Keys(v)) {
			if at := null(name+"."+field, v[field]); at != "" {
				return at
			}
		}
	case []any:
		for i, entry := range v {
			at := fmt.Sprintf("%s[%d]", name, i)
			if entry == nil {
				return at
			}
			if at = null(at, entry); at != "" {
				return at
			}
		}
	}
	return ""
}

// attached is the result of an ADD. The pod's interface is the one with a sandbox, and every address points to it: that is
// how a runtime finds a pod's address.
func attached(netns string, links []bridge.Link, pod bridge.Link, addresses []given, routes []bridge.Route) *types100.Result {
	r := &types100.Result{}
	for _, l := range links {
		r.Interfaces = append(r.Interfaces, &types100.Interface{Name: l.Name, Mac: l.MAC.String(), Mtu: l.MTU})
	}
	r.Interfaces = append(r.Interfaces, &types100.Interface{Name: pod.Name, Mac: pod.MAC.String(), Mtu: pod.MTU, Sandbox: netns})
	for _, a := range addresses {
		r.IPs = append(r.IPs, &types100.IPConfig{
			Interface: types100.Int(len(links)), Address: ipNet(a.prefix), Gateway: a.gateway.AsSlice(),
		})
	}
	for _, route := range routes {
		r.Routes = append(r.Routes, &types.Route{Dst: ipNet(route.Prefix), GW: route.Via.AsSlice()})
	}
	return r
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func fromIPNet(n net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	a = a.Unmap()
	if bits == 128 && a.Is4() {
		ones -= 96
	}
	return netip.PrefixFrom(a, ones)
}

func fromIP(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// names are what the configuration says about resolving names, or the file that it points to.
func (c *config) names() (types.DNS, error) {
	for _, d := range []types.DNS{c.RuntimeConfig.DNS, c.DNS} {
		if !d.IsEmpty() {
			return d, nil
		}
	}
	if c.IPAM.ResolvConf == "" {
		return types.DNS{}, nil
	}
	raw, err := os.ReadFile(c.IPAM.ResolvConf)
	if err != nil {
		return types.DNS{}, fail(CodeIO, "ipam.resolvConf cannot be read", err)
	}
	return parseResolvConf(string(raw)), nil
}

// parseResolvConf reads a file as resolv.conf(5) has it.
func parseResolvConf(text string) (d types.DNS) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") || strings.HasPrefix(fields[0], ";") {
			continue
		}
		switch fields[0] {
		case "nameserver":
			d.Nameservers = append(d.Nameservers, fields[1])
		case "domain":
			d.Domain = fields[1]
		case "search":
			d.Search = append(d.Search, fields[1:]...)
		case "options":
			d.Options = append(d.Options, fields[1:]...)
		}
	}
	return d
}

// podAddresses are the addresses of a result that are the pod's interface's, or all where none says whose it is.
func podAddresses(r *types100.Result, ifname string) (all []given) {
	for _, ip := range r.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(r.Interfaces) {
			if l := r.Interfaces[*i]; l.Sandbox == "" || l.Name != ifname {
				continue
			}
		}
		if p := fromIPNet(ip.Address); p.IsValid() { // whatever another plugin wrote
			all = append(all, given{p, fromIP(ip.Gateway)})
		}
	}
	return all
}
