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
	APIVersion string
	Kind       string
	Metadata   struct {
		Name   string
		Labels map[string]string
	}
	Spec  json.RawMessage
	Items []json.RawMessage // of a list

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
	// Those have one value with us.
	AllowedUses      *[]string
	AssignmentMode   *string
	DisableBGPExport *bool
}

// bgpPeer is a BGPPeer's spec.
type bgpPeer struct {
	// Of which nodes it is a peer.
	Node         string
	NodeSelector string
	// Which one it is: a speaker, or nodes. Those have a session with each other, whichever of them the object is read on, unless
	// ReversePeering is Manual.
	PeerIP         string
	ASNumber       asNumber
	PeerSelector   string
	ReversePeering string
	// How the session is.
	Password                 secret
	LocalASNumber            asNumber
	SourceAddress            string // UseNodeIP, or None for the kernel's choice
	TTLSecurity              int
	MaxHops                  int // ours: how many routers may be between
	NumAllowedLocalASNumbers int
	Passive                  bool // ours: it dials
	MaxRestartTime           *string
	ReachableBy              *string
	// Filters are BGPFilters' names.
	Filters []string
	// Calico tells an external peer of all nodes' blocks, with itself as the next hop or, if told to keep it, the nodes they are at. We
	// tell it of ours alone if nothing is said here.
	KeepOriginalNextHop bool
	NextHopMode         string      // Auto, Keep or Self
	Transit             bgp.Transit // ours
}

// bgpConfiguration is the BGPConfiguration's spec. That of a node may say here whatever that of all does. (Calico has some fields in
// that of all alone, and a node's AS number at its Node, which goes before both.)
type bgpConfiguration struct {
	NodeToNodeMeshEnabled *bool
	NodeMeshPassword      secret
	ASNumber              asNumber
	ListenPort            int
	BindMode              string // NodeIP, or None to listen at all addresses
	// Communities are names. Nothing is marked with them before PrefixAdvertisements say what.
	Communities          []struct{ Name, Value string }
	PrefixAdvertisements []struct {
		CIDR        string
		Communities []string // names or values
	}
	ServiceClusterIPs      []serviceRange
	ServiceExternalIPs     []serviceRange
	ServiceLoadBalancerIPs []serviceRange
	// Those have one value with us.
	ServiceLoadBalancerAggregation *string
	NodeMeshMaxRestartTime         *string
	// Those say what BIRD does, which is not there: how much it logs (ours is --log-level), and which links' networks it does not tell of
	// (we tell of none).
	LogSeverityScreen string
	IgnoredInterfaces []string
}

type serviceRange struct{ CIDR string }

// calicoNode is a Node's spec: what is said of one node alone.
type calicoNode struct {
	BGP struct {
		ASNumber                asNumber
		RouteReflectorClusterID string
		// Calico notes here what it has detected or given. Ours is what --ip says, and the tunnels have addresses of blocks.
		IPv4Address, IPv6Address, IPv4IPIPTunnelAddr string
	}
	// The same is true of those.
	IPv4VXLANTunnelAddr, IPv6VXLANTunnelAddr, VXLANTunnelMACAddr, VXLANTunnelMACAddrV6 string
	Addresses, OrchRefs, Wireguard                                                     json.RawMessage
}

// loader makes a Config of Calico's objects.
type loader struct {
	*Config
	objects     []resource
	filterSpecs map[string]json.RawMessage // of BGPFilters, by their names
	said        said                       // of this node
}

// loadFiles reads Calico's objects, and returns what they say of this node alone. Kinds that mean nothing to us are passed over, such as a
// FelixConfiguration, but for those that protect something.
func (o *Options) loadFiles() (said, error) {
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
	return l.said, errors.Join(append(errs, l.take()...)...)
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
// peers name filters, and nodes by their labels.
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
		case "Node":
			err = l.configureNode(r)
		default:
			err = r.missed()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s %s: %w", r.at, r.Kind, r.Metadata.Name, err))
		}
	}
	return errs
}

// calicos reports whether it is Calico's: others have kinds of the same names.
func (r resource) calicos() bool {
	group, _, _ := strings.Cut(r.APIVersion, "/")
	return slices.Contains([]string{"", "projectcalico.org", "crd.projectcalico.org"}, group)
}

// missed is an error for an object that somebody relies on, and that is not there for us.
func (r resource) missed() error {
	if !r.calicos() {
		return nil
	}
	remedy := ""
	switch r.Kind {
	case "NetworkPolicy", "GlobalNetworkPolicy", "Tier", "NetworkSet", "GlobalNetworkSet", "HostEndpoint":
		remedy = "give Kubernetes' NetworkPolicies, with --policies or in the cluster"
	case "IPReservation":
		remedy = "leave the addresses out of all pools"
	default:
		return nil
	}
	return &podweft.FieldError{Field: "kind", Value: r.Kind, Problem: "is not what we can do", Remedy: remedy}
}

func (l *loader) addPool(r resource) (err error) {
	var of ipPool
	err = errors.Join(
		readSpec(r.Spec, &of),
		fixed("spec.allowedUses", of.AllowedUses, "leave the pool out", []string{"Workload", "Tunnel"}, []string{"Tunnel", "Workload"}),
		fixed("spec.assignmentMode", of.AssignmentMode, "disable the pool", "Automatic"),
		fixed("spec.disableBGPExport", of.DisableBGPExport, "give the peer a BGPFilter that rejects the pool", false),
	)
	if err != nil {
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
	err := errors.Join(
		readSpec(r.Spec, &of),
		fixed("spec.maxRestartTime", of.MaxRestartTime, "give all sessions theirs with --bgp-restart-time"),
		fixed("spec.reachableBy", of.ReachableBy, "give the host a route to the peer"),
	)
	if err != nil {
		return err
	}
	selector, err := ParseSelector(of.NodeSelector)
	if err != nil {
		return err
	}
	p, err := l.peer(r.Metadata.Name, of)
	if err != nil {
		return err
	}
	chosen := (of.Node == "" || of.Node == l.Node) && selector.Matches(l.Labels)
	if of.PeerSelector == "" {
		if chosen {
			l.BGP.Peers = append(l.BGP.Peers, p)
		}
		return nil
	}
	others, err := ParseSelector(of.PeerSelector)
	if err != nil {
		return err
	}
	if chosen {
		p.Nodes = &NodeChoice{Labels: others}
		l.BGP.Peers = append(l.BGP.Peers, p)
	}
	if others.Matches(l.Labels) && of.ReversePeering != "Manual" {
		p.Nodes = &NodeChoice{Name: of.Node, Labels: selector}
		l.BGP.Peers = append(l.BGP.Peers, p)
	}
	return nil
}

// peer is the session that a BGPPeer describes. Where it is that with nodes, it has no address.
func (l *loader) peer(name string, of bgpPeer) (p Peer, err error) {
	p = Peer{FromNode: true, Peer: bgp.Peer{
		Name: name, AS: uint32(of.ASNumber), LocalAS: uint32(of.LocalASNumber), Password: string(of.Password), TTLSecurity: of.TTLSecurity,
		AllowOwnAS: of.NumAllowedLocalASNumbers, Multihop: of.MaxHops, Passive: of.Passive, Transit: of.Transit,
	}}
	bad := func(field, value, problem, remedy string) (Peer, error) {
		return p, &podweft.FieldError{Field: "spec." + field, Value: fmt.Sprintf("%q", value), Problem: problem, Remedy: remedy}
	}
	switch of.SourceAddress {
	case "", "UseNodeIP":
	case "None":
		p.FromNode = false
	default:
		return bad("sourceAddress", of.SourceAddress, "is no choice of an address", "write UseNodeIP or None")
	}
	hop := map[string]bgp.Transit{"": "", "Auto": "", "Keep": bgp.NextHopKept, "Self": bgp.NextHopSelf}
	mode, known := hop[of.NextHopMode]
	if !known {
		return bad("nextHopMode", of.NextHopMode, "is no mode", "write Auto, Keep or Self")
	}
	if of.KeepOriginalNextHop {
		mode = cmp.Or(mode, bgp.NextHopKept)
	}
	p.Transit = cmp.Or(p.Transit, mode)
	switch of.ReversePeering {
	case "", "Auto", "Manual":
	default:
		return bad("reversePeering", of.ReversePeering, "is no choice", "write Auto or Manual")
	}
	if p.Import, p.Export, err = l.filters(of.Filters); err != nil {
		return p, err
	}
	if of.PeerSelector != "" {
		if of.PeerIP != "" || of.ASNumber != 0 || of.LocalASNumber != 0 { // of an AS for this session alone the other end would not know
			return bad("peerSelector", of.PeerSelector, "goes without peerIP, asNumber and localASNumber, which are the nodes'", "leave those out")
		}
		if !p.FromNode {
			return bad("sourceAddress", of.SourceAddress, "goes without peerSelector: nodes know each other by their addresses", "leave it out")
		}
		return p, nil
	}
	host, port := of.PeerIP, ""
	if h, p, err := net.SplitHostPort(of.PeerIP); err == nil {
		host, port = h, p
	}
	if p.Addr, err = netip.ParseAddr(strings.Trim(host, "[]")); err == nil && port != "" {
		p.Port, err = strconv.Atoi(port)
	}
	if err != nil {
		return bad("peerIP", of.PeerIP, "is not an address, with a port or without", "write one like 192.0.2.254")
	}
	return p, nil
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
	err := errors.Join(
		readSpec(r.Spec, &of),
		fixed("spec.serviceLoadBalancerAggregation", of.ServiceLoadBalancerAggregation, "leave it out: each range is advertised as a whole", "Enabled"),
		fixed("spec.nodeMeshMaxRestartTime", of.NodeMeshMaxRestartTime, "give all sessions theirs with --bgp-restart-time"),
	)
	if err != nil {
		return err
	}
	switch of.BindMode {
	case "":
	case "None", "NodeIP":
		l.BGP.Bound = of.BindMode == "NodeIP"
	default:
		return &podweft.FieldError{Field: "spec.bindMode", Value: fmt.Sprintf("%q", of.BindMode), Problem: "is no mode", Remedy: "write None or NodeIP"}
	}
	if of.NodeToNodeMeshEnabled != nil {
		l.BGP.Mesh = map[bool]Mesh{true: FullMesh, false: NoMesh}[*of.NodeToNodeMeshEnabled]
	}
	l.BGP.AS, l.BGP.Port = cmp.Or(uint32(of.ASNumber), l.BGP.AS), cmp.Or(of.ListenPort, l.BGP.Port)
	l.BGP.Password = cmp.Or(string(of.NodeMeshPassword), l.BGP.Password)
	for _, s := range slices.Concat(of.ServiceClusterIPs, of.ServiceExternalIPs, of.ServiceLoadBalancerIPs) {
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

// configureNode takes what this node's Node says.
func (l *loader) configureNode(r resource) error {
	if !r.calicos() || r.Metadata.Name != l.Node {
		return nil
	}
	var of calicoNode
	if err := readSpec(r.Spec, &of); err != nil {
		return err
	}
	if len(l.Labels) == 0 {
		l.Labels = r.Metadata.Labels
	}
	var err error
	l.said.as = uint32(of.BGP.ASNumber)
	l.said.cluster, err = clusterID("spec.bgp.routeReflectorClusterID", of.BGP.RouteReflectorClusterID)
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
