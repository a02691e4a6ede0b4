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
	// Calico tells an external peer of all nodes' blocks, with itself as the next hop or, with KeepHops, the nodes they are at. We tell
	// it of ours alone if nothing is said here.
	KeepHops bool        `json:"keepOriginalNextHop"`
	Transit  bgp.Transit // ours
}

// bgpConfiguration is the BGPConfiguration's spec.
type bgpConfiguration struct {
	NodeToNodeMeshEnabled *bool
	ASNumber              uint32
	ListenPort            int
	Communities           []struct{ Name, Value string }
	ServiceClusterIPs     []serviceRange
	ServiceExternalIPs    []serviceRange
	ServiceLoadBalancers  []serviceRange `json:"serviceLoadBalancerIPs"`
}

type serviceRange struct{ CIDR string }

// loadFiles reads Calico's objects. Kinds that mean nothing to us are passed over.
func (o *Options) loadFiles() error {
	var errs []error
	for _, name := range o.files {
		data, err := os.ReadFile(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("--config: %w", err))
			continue
		}
		if err := o.Config.load(data); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// load reads the documents of a file.
func (c *Config) load(data []byte) error {
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
			err = c.object(text)
		}
		if err != nil {
			return fmt.Errorf("document %d: %w", n, err)
		}
	}
}

func (c *Config) object(raw []byte) error {
	var r resource
	if err := json.Unmarshal(raw, &r); err != nil {
		return err
	}
	for _, item := range r.Items {
		if err := c.object(item); err != nil {
			return err
		}
	}
	var err error
	switch r.Kind {
	case "IPPool":
		err = c.addPool(r)
	case "BGPPeer":
		err = c.addPeer(r)
	case "BGPConfiguration":
		err = c.configureBGP(r)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", r.Kind, r.Metadata.Name, err)
	}
	return nil
}

func (c *Config) addPool(r resource) (err error) {
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
	c.Pools = append(c.Pools, p)
	return err
}

func (c *Config) addPeer(r resource) error {
	var of bgpPeer
	if err := json.Unmarshal(r.Spec, &of); err != nil {
		return err
	}
	selector, err := ParseSelector(of.NodeSelector)
	if err != nil {
		return err
	}
	if of.Node != "" && of.Node != c.Node || !selector.Matches(c.Labels) {
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
	c.BGP.Peers = append(c.BGP.Peers, p)
	return nil
}

func (c *Config) configureBGP(r resource) error {
	if of, one := strings.CutPrefix(r.Metadata.Name, "node."); one && of != c.Node {
		return nil // another node's
	}
	var of bgpConfiguration
	if err := json.Unmarshal(r.Spec, &of); err != nil {
		return err
	}
	if of.NodeToNodeMeshEnabled != nil && !*of.NodeToNodeMeshEnabled {
		c.BGP.Mesh = NoMesh
	}
	c.BGP.AS, c.BGP.Port = cmp.Or(of.ASNumber, c.BGP.AS), cmp.Or(of.ListenPort, c.BGP.Port)
	for _, s := range slices.Concat(of.ServiceClusterIPs, of.ServiceExternalIPs, of.ServiceLoadBalancers) {
		p, err := netip.ParsePrefix(s.CIDR)
		if err != nil {
			return &podweft.FieldError{Field: "spec.service...IPs", Value: fmt.Sprintf("%q", s.CIDR), Problem: "is not a network", Remedy: "write one like 10.96.0.0/12"}
		}
		c.BGP.Services = append(c.BGP.Services, p.Masked())
	}
	for _, m := range of.Communities {
		community, err := bgp.ParseCommunity(m.Value)
		if err != nil {
			return err
		}
		c.BGP.Communities = append(c.BGP.Communities, community)
	}
	return nil
}
