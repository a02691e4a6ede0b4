package subnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/podweft/podweft"
)

// Network is the cluster's pod address plan: what flannel calls net-conf.json. A family whose Range is zero is off.
type Network struct {
	V4, V6   Range
	NFTables bool // EnableNFTables: the user asks for nftables instead of iptables
	Backend  Backend
}

// Backend says how packets travel between nodes.
type Backend struct {
	Type   string          // lower case: "vxlan"
	Config json.RawMessage // the whole "Backend" object, compact; the driver decodes what it knows
}

// DefaultBackend is the type of a Network whose configuration has no "Backend".
const DefaultBackend = "vxlan"

// ParseNetwork parses flannel's net-conf.json:
//
//	EnableIPv4, EnableIPv6         default true, false
//	EnableNFTables                 default false
//	Network, IPv6Network           CIDR; required where the family is enabled, ignored where it is not; host bits are cleared
//	SubnetLen, IPv6SubnetLen       default 24 and 64, in a network smaller than four of these its length + 2; at most 30 and 126
//	SubnetMin, IPv6SubnetMin       address of the first subnet to lease; default the second subnet of the network
//	SubnetMax, IPv6SubnetMax       address of the last one; default the last subnet of the network
//	Backend                        object with a Type, which is taken in lower case, and what that backend wants
//
// Names are matched whatever their case and unknown ones are ignored, as in flannel. Where the whole Backend is absent we do
// what flannel's documentation says and take "vxlan"; its code takes udp. One check is ours: SubnetMin must not come after
// SubnetMax.
//
// The error joins a [*podweft.FieldError] for each problem, which names the JSON field and says what to write instead.
func ParseNetwork(data []byte) (*Network, error) {
	var doc networkJSON
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, notJSON(data, err)
	}
	return doc.parse()
}

// Validate reports everything that is wrong with a Network made by hand, as [ParseNetwork] does for one in JSON.
func (n *Network) Validate() error {
	_, err := n.complete()
	return err
}

// Equal reports whether n and o are the same plan. Fields left to their default equal the default spelled out.
func (n *Network) Equal(o *Network) bool {
	if n == o || n == nil || o == nil {
		return n == o
	}
	return n.V4.filled() == o.V4.filled() && n.V6.filled() == o.V6.filled() && n.NFTables == o.NFTables &&
		n.Backend.Type == o.Backend.Type && sameJSON(n.Backend.Config, o.Backend.Config)
}

// UnmarshalJSON is [ParseNetwork].
func (n *Network) UnmarshalJSON(data []byte) error {
	parsed, err := ParseNetwork(data)
	if err == nil {
		*n = *parsed
	}
	return err
}

// MarshalJSON writes net-conf.json with every default spelled out.
func (n *Network) MarshalJSON() ([]byte, error) {
	full, err := n.complete()
	if err != nil {
		return nil, err
	}
	out := struct {
		EnableIPv4     *bool `json:",omitempty"` // only when false: true is the default
		EnableIPv6     bool  `json:",omitempty"`
		EnableNFTables bool  `json:",omitempty"`

		Network       netip.Prefix `json:",omitzero"`
		SubnetLen     int          `json:",omitempty"`
		SubnetMin     netip.Addr   `json:",omitzero"`
		SubnetMax     netip.Addr   `json:",omitzero"`
		IPv6Network   netip.Prefix `json:",omitzero"`
		IPv6SubnetLen int          `json:",omitempty"`
		IPv6SubnetMin netip.Addr   `json:",omitzero"`
		IPv6SubnetMax netip.Addr   `json:",omitzero"`

		Backend json.RawMessage
	}{
		EnableIPv6: !full.V6.IsZero(), EnableNFTables: full.NFTables,
		Network: full.V4.Network, SubnetLen: full.V4.SubnetLen, SubnetMin: full.V4.Min, SubnetMax: full.V4.Max,
		IPv6Network: full.V6.Network, IPv6SubnetLen: full.V6.SubnetLen, IPv6SubnetMin: full.V6.Min, IPv6SubnetMax: full.V6.Max,
		Backend: full.Backend.Config,
	}
	if full.V4.IsZero() {
		out.EnableIPv4 = new(bool)
	}
	return json.Marshal(out)
}

func (n *Network) ranges() [2]Range { return [2]Range{n.V4, n.V6} }

// complete checks n and returns it with every default filled in.
func (n *Network) complete() (*Network, error) {
	full := &Network{NFTables: n.NFTables}
	var errs []error
	if n.V4.IsZero() && n.V6.IsZero() {
		errs = append(errs, &podweft.FieldError{Field: "Network", Problem: "is missing",
			Remedy: `give the pods' addresses, such as "10.244.0.0/16", or enable IPv6 and give IPv6Network`})
	}
	for f, into := range [...]*Range{&full.V4, &full.V6} {
		var problems []error
		*into, problems = n.ranges()[f].check(family(f))
		errs = append(errs, problems...)
	}
	var err error
	if full.Backend, err = n.Backend.complete(); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return full, nil
}

// complete settles Type and Config with each other: a Backend made by hand may have only one of them.
func (b Backend) complete() (Backend, error) {
	if len(b.Config) == 0 || string(b.Config) == "null" {
		if b.Type == "" {
			b.Type = DefaultBackend
		}
		config, err := json.Marshal(struct{ Type string }{b.Type})
		return Backend{Type: strings.ToLower(b.Type), Config: config}, err
	}
	var named struct{ Type *string }
	if err := json.Unmarshal(b.Config, &named); err != nil {
		return b, &podweft.FieldError{Field: "Backend", Value: shown(b.Config), Problem: "is not a backend", Remedy: `write an object with a Type, such as {"Type": "vxlan"}`}
	}
	if named.Type == nil || *named.Type == "" {
		return b, &podweft.FieldError{Field: "Backend.Type", Problem: "is missing", Remedy: `name a backend, such as "vxlan" or "host-gw"`}
	}
	if b.Type != "" && !strings.EqualFold(b.Type, *named.Type) {
		return b, &podweft.FieldError{Field: "Backend.Type", Value: b.Type, Problem: "is not the Type in Backend.Config", Remedy: "give one of them"}
	}
	return Backend{Type: strings.ToLower(*named.Type), Config: compact(b.Config)}, nil
}

// networkJSON takes each field undecoded, so that one bad field does not hide the next. encoding/json matches the names
// whatever their case.
type networkJSON struct {
	EnableIPv4, EnableIPv6, EnableNFTables json.RawMessage

	Network, SubnetLen, SubnetMin, SubnetMax                 json.RawMessage
	IPv6Network, IPv6SubnetLen, IPv6SubnetMin, IPv6SubnetMax json.RawMessage

	Backend json.RawMessage
}

func (doc *networkJSON) parse() (*Network, error) {
	var d fieldDecoder
	n := &Network{Backend: Backend{Config: doc.Backend}}
	v4on, v6on := true, false
	d.decode("EnableIPv4", doc.EnableIPv4, &v4on, "is not true or false", "")
	d.decode("EnableIPv6", doc.EnableIPv6, &v6on, "is not true or false", "")
	d.decode("EnableNFTables", doc.EnableNFTables, &n.NFTables, "is not true or false", "")
	if v4on {
		n.V4 = d.decodeRange(v4, doc.Network, doc.SubnetLen, doc.SubnetMin, doc.SubnetMax)
	}
	if v6on {
		n.V6 = d.decodeRange(v6, doc.IPv6Network, doc.IPv6SubnetLen, doc.IPv6SubnetMin, doc.IPv6SubnetMax)
	}
	if !v4on && !v6on {
		d.fail("EnableIPv4", false, "leaves no family on", "enable IPv4 or IPv6")
	}
	if len(d.errs) == 0 {
		return n.complete()
	}
	// What could be decoded is checked too: a person wants all the bad news at once. A range with an undecodable part is
	// left out, or it would be blamed twice.
	for f, r := range n.ranges() {
		if !d.broken[f] {
			_, problems := r.check(family(f))
			d.errs = append(d.errs, problems...)
		}
	}
	if _, err := n.Backend.complete(); err != nil {
		d.errs = append(d.errs, err)
	}
	return nil, errors.Join(d.errs...)
}

// fieldDecoder decodes one field after the other and keeps the problems.
type fieldDecoder struct {
	errs   []error
	broken [2]bool // families whose range cannot be judged as a whole
}

func (d *fieldDecoder) fail(field string, value any, problem, remedy string) {
	d.errs = append(d.errs, &podweft.FieldError{Field: field, Value: value, Problem: problem, Remedy: remedy})
}

// decode decodes raw into v; an absent field leaves v alone, and so does null, as in encoding/json.
func (d *fieldDecoder) decode(field string, raw json.RawMessage, v any, problem, remedy string) bool {
	if len(raw) == 0 || json.Unmarshal(raw, v) == nil {
		return true
	}
	d.fail(field, shown(raw), problem, remedy)
	return false
}

func (d *fieldDecoder) decodeRange(f family, network, length, first, last json.RawMessage) Range {
	names := f.fieldNames()
	var r Range
	if s := string(network); s == "" || s == "null" || s == `""` {
		d.fail(names.network, nil, "is missing", fmt.Sprintf("give the pods' %s addresses, such as %q, or turn %s off", f, names.example, f))
		d.broken[f] = true
	}
	ok := d.decode(names.network, network, &r.Network, "is not a CIDR", fmt.Sprintf("write %q", names.example))
	ok = d.decode(names.length, length, &r.SubnetLen, "is not a number", "write the length of a node's subnet, such as "+names.exampleLength) && ok
	ok = d.decode(names.first, first, &r.Min, "is not an "+f.String()+" address", "") && ok
	ok = d.decode(names.last, last, &r.Max, "is not an "+f.String()+" address", "") && ok
	d.broken[f] = d.broken[f] || !ok
	// flannel clears host bits, and takes the zero address for "not given".
	r.Network = r.Network.Masked()
	r.Min, r.Max = unlessUnspecified(r.Min), unlessUnspecified(r.Max)
	return r
}

func unlessUnspecified(a netip.Addr) netip.Addr {
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// notJSON explains a document that is not a JSON object, with the line where reading stopped.
func notJSON(data []byte, err error) error {
	field := "net-conf.json"
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		field = fmt.Sprintf("net-conf.json line %d", 1+bytes.Count(data[:syntax.Offset], []byte("\n")))
	}
	return &podweft.FieldError{Field: field, Problem: "is not a JSON object", Remedy: err.Error()}
}

// shown is raw as an error quotes it.
func shown(raw json.RawMessage) string {
	const most = 60
	if s := string(compact(raw)); len(s) <= most {
		return s
	}
	return string(compact(raw)[:most]) + "..."
}
