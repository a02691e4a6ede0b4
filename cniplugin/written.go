package cniplugin

import (
	"bytes"
	"encoding/json"
	"net"
	"strconv"

	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// written is what a Result looks like. Its own MarshalJSON writes it, reads that and writes it again, so as to leave out a dns
// that is empty, and package json learns a type by reflection before it writes the first value: together that took as much time
// as for the kernel to make the pod's links. What another plugin wrote may list null, of which nothing is written.
func written(r *types100.Result) []byte {
	var t object
	t.braced(func() {
		t.text("cniVersion", r.CNIVersion)
		t.list("interfaces", len(r.Interfaces), func(i int) {
			l := r.Interfaces[i]
			if l == nil {
				return
			}
			t.text("name", l.Name)
			t.text("mac", l.Mac)
			t.number("mtu", l.Mtu)
			t.text("sandbox", l.Sandbox)
			t.text("socketPath", l.SocketPath)
			t.text("pciID", l.PciID)
		})
		t.list("ips", len(r.IPs), func(i int) {
			ip := r.IPs[i]
			if ip == nil {
				return
			}
			t.optional("interface", ip.Interface)
			t.text("address", ip.Address.String())
			t.address("gateway", ip.Gateway)
		})
		t.list("routes", len(r.Routes), func(i int) {
			to := r.Routes[i]
			if to == nil {
				return
			}
			t.text("dst", to.Dst.String())
			t.address("gw", to.GW)
			t.number("mtu", to.MTU)
			t.number("advmss", to.AdvMSS)
			t.number("priority", to.Priority)
			t.optional("table", to.Table)
			t.optional("scope", to.Scope)
		})
		if !r.DNS.IsEmpty() {
			t.name("dns")
			dns, _ := json.Marshal(r.DNS) // strings always can be
			t.json = append(append(t.json, dns...), ',')
		}
	})
	return bytes.TrimSuffix(t.json, []byte{','})
}

// object is JSON that is being written. A comma follows each value, until a bracket takes its place.
type object struct{ json []byte }

func (o *object) braced(fill func()) {
	o.json = append(o.json, '{')
	fill()
	o.end('}')
}

func (o *object) end(bracket byte) {
	o.json = append(bytes.TrimSuffix(o.json, []byte{','}), bracket, ',')
}

func (o *object) name(name string) { o.json = append(strconv.AppendQuote(o.json, name), ':') }

// list writes n objects, unless there are none.
func (o *object) list(name string, n int, fill func(i int)) {
	if n == 0 {
		return
	}
	o.name(name)
	o.json = append(o.json, '[')
	for i := range n {
		o.braced(func() { fill(i) })
	}
	o.end(']')
}

// text writes a string, unless it is empty.
func (o *object) text(name, value string) {
	if value == "" {
		return
	}
	o.name(name)
	quoted, _ := json.Marshal(value) // a string always can be
	o.json = append(append(o.json, quoted...), ',')
}

func (o *object) address(name string, ip net.IP) {
	if len(ip) > 0 {
		o.text(name, ip.String())
	}
}

// number writes a number, unless it is zero.
func (o *object) number(name string, value int) {
	if value != 0 {
		o.optional(name, &value)
	}
}

// optional writes a number, unless there is none.
func (o *object) optional(name string, value *int) {
	if value != nil {
		o.name(name)
		o.json = append(strconv.AppendInt(o.json, int64(*value), 10), ',')
	}
}
