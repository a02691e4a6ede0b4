package calico

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	documents "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bgp"
)

// resource is what all of Calico's objects have.
type resource struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     json.RawMessage
	Items    []json.RawMessage // of a list

	at string // which document of which file it was in
}

// ipPool is an IPPool's spec (projectcalico.org/v3).
type ipPool struct {
	CIDR         string
	BlockSize    int
	IPIPMode     string
	VXLANMode    string
	NATOutgoing  bool
	NodeSelector string
	// NamespaceSelector is of the namespaces' labels, which Policies' source tells.
	NamespaceSelector string
	Disabled          bool
}

// bgpPeer is a BGPPeer's spec. Passwords are in Secrets there, which a file has none of: ours is the text.
type bgpPeer struct {
	Node         string
	NodeSelector string
	PeerIP       string
	ASNumber     uint32
	Password     string
	MaxHops      int  // ours: how many routers may be between
	AllowOwnAS   int  `json:"numAllowedLocalASNumbers"`
	Passive      bool // ours: it dials
	// Filters are BGPFilters' names.
	Filters []string
	// Calico tells an external peer of all nodes' blocks, with itself as the next hop or, with KeepHops, the nodes they are at. We tell
	// it of ours alone if nothing is said here.
	KeepHops bool        `json:"keepOriginalNextHop"`
	Transit  bgp.Transit // ours
}

// bgpConfiguration is the BGPConfiguration's spec. That of a node may say here whatever that of all does. (Calico has some fields in
// that of all alone, and a node's AS number at its Node.)
type bgpConfiguration struct {
	NodeToNodeMeshEnabled *bool
	ASNumber              uint32
	ListenPort            int
	// Communities are names. Nothing is marked with them before PrefixAdvertisements say what.
	Communities          []struct{ Name, Value string }
	PrefixAdvertisements []struct {
		CIDR        string
		Communities []string // names or values
	}
	ServiceClusterIPs    []serviceRange
	ServiceExternalIPs   []serviceRange
	ServiceLoadBalancers []serviceRange `json:"serviceLoadBalancerIPs"`
}

type serviceRange struct{ CIDR string }

// loader makes a Config of Calico's objects.
type loader struct {
	*Config
	objects     []resource
	filterSpecs map[string]json.RawMessage // of BGPFilters, by their names
}

// loadFiles reads Calico's objects. Kinds that mean nothing to us are passed over.
func (o *Options) loadFiles() error {
	l := &loader{Config: &o.Config, filterSpecs: map[string]json.RawMessage{}}
	var errs []error
	for _, name := range o.files {
		data, err := os.ReadFile(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("--config: %w", err))
			continue
		}
		if err := l.read(name, data); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(append(errs, l.take()...)...)
}

// read reads the documents of a file.
func (l *loader) read(name string, data []byte) error {
	r := documents.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for n := 1; ; n++ {
		text, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			text, err = yaml.YAMLToJSON(text)
		}
		if err == nil {
			err = l.object(fmt.Sprintf("%s: document %d", name, n), text)
		}
		if err != nil {
			return fmt.Errorf("document %d: %w", n, err)
		}
	}
}

func (l *loader) object(at string, raw []byte) error {
	r := resource{at: at}
	if err := json.Unmarshal(raw, &r); err != nil {
		return err
	}
	for _, item := range r.Items {
		if err := l.object(at, item); err != nil {
			return err
		}
	}
	l.objects = append(l.objects, r)
	return nil
}

// take makes of the objects what they mean, whatever order they are in: what is said of a node goes before what is said of all, and
// peers name filters.
func (l *loader) take() (errs []error) {
	order := func(r resource) int {
		switch {
		case r.Kind == "BGPConfiguration" && r.Metadata.Name != allNodes:
			return 1
		case r.Kind == "BGPPeer":
			return 2
		}
		return 0
	}
	slices.SortStableFunc(l.objects, func(a, b resource) int { return cmp.Compare(order(a), order(b)) })
	for _, r := range l.objects {
		var err error
		switch r.Kind {
		case "IPPool":
			err = l.addPool(r)
		case "BGPFilter":
			l.filterSpecs[r.Metadata.Name] = r.Spec
		case "BGPPeer":
			err = l.addPeer(r)
		case "BGPConfiguration":
			err = l.configureBGP(r)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s %s: %w", r.at, r.Kind, r.Metadata.Name, err))
		}
	}
	return errs
}

func (l *loader) addPool(r resource) (err error) {
	var of ipPool
	if err := json.Unmarshal(r.Spec, &of); err != nil {
		return err
	}
	p := Pool{Name: r.Metadata.Name, BlockBits: of.BlockSize, NAT: of.NATOutgoing, Disabled: of.Disabled}
	if p.Prefix, err = netip.ParsePrefix(of.CIDR); err != nil {
		return &podweft.FieldError{Field: "spec.cidr", Value: fmt.Sprintf("%q", of.CIDR), Problem: "is not a network", Remedy: "write one like 10.244.0.0/16"}
	}
	p.Prefix = p.Prefix.Masked()
	if p.IPIP, err = ParseMode(of.IPIPMode); err == nil {
		p.VXLAN, err = ParseMode(of.VXLANMode)
	}
	if err == nil {
		p.Nodes, err = ParseSelector(of.NodeSelector)
	}
	if err == nil {
		p.Namespaces, err = ParseSelector(of.NamespaceSelector)
	}
	l.Pools = append(l.Pools, p)
	return err
}

func (l *loader) addPeer(r resource) error {
	var of bgpPeer
	if err := json.Unmarshal(r.Spec, &of); err != nil {
		return err
	}
	selector, err := ParseSelector(of.NodeSelector)
	if err != nil {
		return err
	}
	if of.Node != "" && of.Node != l.Node || !selector.Matches(l.Labels) {
		return nil // another node's
	}
	p := bgp.Peer{
		Name: r.Metadata.Name, AS: of.ASNumber, Password: of.Password,
		AllowOwnAS: of.AllowOwnAS, Multihop: of.MaxHops, Passive: of.Passive, Transit: of.Transit,
	}
	if of.KeepHops {
		p.Transit = cmp.Or(p.Transit, bgp.NextHopKept)
	}
	host, port := of.PeerIP, ""
	if h, p, err := net.SplitHostPort(of.PeerIP); err == nil {
		host, port = h, p
	}
	if p.Addr, err = netip.ParseAddr(strings.Trim(host, "[]")); err == nil && port != "" {
		p.Port, err = strconv.Atoi(port)
	}
	if err != nil {
		return &podweft.FieldError{
			Field: "spec.peerIP", Value: fmt.Sprintf("%q", of.PeerIP), Problem: "is not an address, with a port or without", Remedy: "write one like 192.0.2.254",
		}
	}
	if p.Import, p.Export, err = l.filters(of.Filters); err != nil {
		return err
	}
	l.BGP.Peers = append(l.BGP.Peers, p)
	return nil
}

// The names of BGPConfigurations: that of all nodes, and what a node's begins with.
const (
	allNodes = "default"
	oneNode  = "node."
)

func (l *loader) configureBGP(r resource) error {
	node, one := strings.CutPrefix(r.Metadata.Name, oneNode)
	switch {
	case one && node != l.Node:
		return nil // another node's
	case !one && r.Metadata.Name != allNodes:
		return &podweft.FieldError{
			Field: "metadata.name", Value: fmt.Sprintf("%q", r.Metadata.Name), Problem: "is that of no node",
			Remedy: "write default, or node.NODE",
		}
	}
	var of bgpConfiguration
	if err := json.Unmarshal(r.Spec, &of); err != nil {
		return err
	}
	if of.NodeToNodeMeshEnabled != nil {
		l.BGP.Mesh = map[bool]Mesh{true: FullMesh, false: NoMesh}[*of.NodeToNodeMeshEnabled]
	}
	l.BGP.AS, l.BGP.Port = cmp.Or(of.ASNumber, l.BGP.AS), cmp.Or(of.ListenPort, l.BGP.Port)
	for _, s := range slices.Concat(of.ServiceClusterIPs, of.ServiceExternalIPs, of.ServiceLoadBalancers) {
		p, err := netip.ParsePrefix(s.CIDR)
		if err != nil {
			return notNetwork("spec.service...IPs", s.CIDR)
		}
		if p = p.Masked(); !slices.Contains(l.BGP.Services, p) {
			l.BGP.Services = append(l.BGP.Services, p)
		}
	}
	marks, err := of.marks()
	if len(marks) > 0 {
		l.BGP.Communities = marks // a node's list goes instead of that of all
	}
	return err
}

// marks are which communities go with which prefixes.
func (c bgpConfiguration) marks() (all []Communities, err error) {
	values := map[string]string{}
	for _, named := range c.Communities {
		values[named.Name] = named.Value
	}
	for i, of := range c.PrefixAdvertisements {
		at := fmt.Sprintf("spec.prefixAdvertisements[%d].", i)
		p, err := netip.ParsePrefix(of.CIDR)
		if err != nil {
			return nil, notNetwork(at+"cidr", of.CIDR)
		}
		mark := Communities{Within: p.Masked()}
		for j, text := range of.Communities {
			community, err := bgp.ParseCommunity(cmp.Or(values[text], text))
			if err != nil {
				return nil, &podweft.FieldError{
					Field: fmt.Sprintf("%scommunities[%d]", at, j), Value: fmt.Sprintf("%q", text), Problem: "names no community that we can tell of",
					Remedy: `write two numbers below 65536, such as "64512:100", or give spec.communities a name for them`,
				}
			}
			mark.Values = append(mark.Values, community)
		}
		all = append(all, mark)
	}
	return all, nil
}

func notNetwork(field, text string) error {
	return &podweft.FieldError{Field: field, Value: fmt.Sprintf("%q", text), Problem: "is not a network", Remedy: "write one like 10.96.0.0/12"}
}
