package calico

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/node"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/roster"
	"github.com/podweft/podweft/subnet"
)

// The defaults of a [Config], as Calico has them.
const (
	DefaultNetwork = "k8s-pod-network"
	DefaultAS      = 64512
	DefaultVNI     = 4096
	DefaultPort    = 4789 // of VXLAN
)

// Source is where an Agent learns the way to other nodes' blocks.
type Source string

// The sources. The zero Source is ByBGP.
const (
	ByBGP   Source = "bgp"   // from other speakers
	ByStore Source = "store" // straight from the blocks and the nodes' own word
)

// Config says what an Agent is and where it works. Node, Pools, Blocks and Nodes are required.
type Config struct {
	// Node is this node's name, unique in the cluster, and Labels are what pools select nodes by.
	Node   string
	Labels map[string]string
	// NetNS is the path of the node's network namespace; empty means the caller's. With ByBGP it has to be empty: the engine
	// lives in the namespace of its process.
	NetNS string
	// Network is the CNI network's name, which also marks what the agent makes; empty means DefaultNetwork.
	Network string
	// Underlay says which interface leads to the other nodes; its zero value chooses that of the default route.
	Underlay node.Choice
	// MTU of the underlay in bytes; zero means that of the interface.
	MTU int

	Pools  []Pool
	Blocks block.Store
	Nodes  roster.Store

	// Grace is how long a node must not have been heard of before its blocks are others' to have, and it is forgotten: longer than any
	// cut from the store lasts, since its pods run on. Zero means block.DefaultGrace.
	Grace time.Duration
	// Dead tells of nodes which are dead, so that their blocks can be collected; nil means roster.Silent of Nodes. Lead says whether it
	// is this node that collects; nil means roster.Leads of Nodes.
	Dead func(ctx context.Context, nodes []string) ([]string, error)
	Lead func(ctx context.Context) (bool, error)

	// Routes says where the way to other nodes comes from; empty means ByBGP, which BGP is about.
	Routes Source
	BGP    BGP
	// VNI and VXLANPort are the overlay's; zero means DefaultVNI and DefaultPort.
	VNI       uint32
	VXLANPort uint16
	// Policies are in force before a pod's first process runs; nil means that there are none.
	Policies PolicySource
	// Forward has the host's firewall pass what comes from pods and goes to pods, where it drops by default: see package forward.
	Forward bool

	// StateDir holds what lives as long as the pods do; empty means cniplugin.DefaultStateDir.
	StateDir string
	// CNIConf is where to write the CNI configuration when pods can be attached, such as /etc/cni/net.d/10-podweft.conflist. Empty:
	// nowhere.
	CNIConf string

	// Logger gets what happens; nil means silence.
	Logger *slog.Logger
}

// BGP is how an Agent speaks to others. Its zero value is Calico's default: all nodes in one AS, in a full mesh.
type BGP struct {
	// AS of this node; zero means DefaultAS.
	AS uint32
	// RouterID is zero for the underlay's IPv4 address; without one of those it is made up from the node's name.
	RouterID netip.Addr
	// Port to listen at and to dial; zero means bgp.DefaultPort.
	Port int
	// Mesh says which nodes speak to each other; empty means FullMesh.
	Mesh Mesh
	// ClusterID makes the node a route reflector, for Mesh Reflectors.
	ClusterID netip.Addr
	// Password of the sessions of the mesh. Empty: they are not signed.
	Password string
	// Peers are those beside the mesh, such as the switch at the top of the rack. Of one that is a node of the mesh the filters count alone.
	Peers []Peer
	// Bound has the speaker listen at the node's underlay addresses alone. When it gets another one, Run ends with ErrMoved.
	Bound bool
	// RestartTime is bgp.Config's.
	RestartTime time.Duration
	// Communities mark what this node advertises: each its blocks and Services within a prefix.
	Communities []Communities
	// Services are advertised by every node: the addresses of a cluster's Services, which each of its nodes answers for.
	Services []netip.Prefix
}

// Peer is a speaker to have a session with, or the nodes that are chosen.
type Peer struct {
	bgp.Peer
	// FromNode makes our end the node's underlay address where Local is zero, if there is one of the peer's family.
	FromNode bool
	// Nodes are the peers, at their addresses: Name, Addr, AS, Local and Passive come from them, and Port, if it is zero, is that of all.
	// Nil: Addr is the peer. The nodes must have this one as a peer too, and know it by BGP.AS: LocalAS must be zero.
	Nodes *NodeChoice
}

// NodeChoice chooses nodes: those that have this name and are selected by their labels. Its zero value is all of them.
type NodeChoice struct {
	Name   string
	Labels policy.Selector
}

func (c NodeChoice) has(n roster.Node) bool {
	return (c.Name == "" || c.Name == n.Name) && c.Labels.Matches(n.Labels)
}

// Communities mark what lies in a prefix.
type Communities struct {
	Within netip.Prefix
	Values []bgp.Community
}

// communitiesOf are those that mark a prefix.
func (b BGP) communitiesOf(p netip.Prefix) (all []bgp.Community) {
	for _, c := range b.Communities {
		if c.Within.Contains(p.Addr()) && c.Within.Bits() <= p.Bits() {
			all = append(all, c.Values...)
		}
	}
	return all
}

// Mesh says which nodes have BGP sessions with each other.
type Mesh string

// The meshes. The zero Mesh is FullMesh.
const (
	FullMesh   Mesh = "full"       // every node with every other
	Reflectors Mesh = "reflectors" // with nodes that have a ClusterID, and these with everybody
	NoMesh     Mesh = "none"       // with nobody but BGP.Peers
)

func (c Config) withDefaults() Config {
	c.Network = cmp.Or(c.Network, DefaultNetwork)
	c.Routes = cmp.Or(c.Routes, ByBGP)
	c.VNI = cmp.Or(c.VNI, DefaultVNI)
	c.VXLANPort = cmp.Or(c.VXLANPort, DefaultPort)
	c.StateDir = cmp.Or(c.StateDir, cniplugin.DefaultStateDir)
	c.BGP.AS = cmp.Or(c.BGP.AS, DefaultAS)
	c.BGP.Port = cmp.Or(c.BGP.Port, bgp.DefaultPort)
	c.BGP.Mesh = cmp.Or(c.BGP.Mesh, FullMesh)
	if c.Dead == nil {
		c.Dead = roster.Silent(c.Nodes)
	}
	if c.Lead == nil {
		c.Lead = roster.Leads(c.Nodes, c.Node)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// networkForm is what CNI allows as a network's name and the kernel as a part of a table's.
var networkForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// Validate reports everything that is wrong with c, joined, each as a [*podweft.FieldError].
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	bad := func(field string, value any, problem, remedy string) {
		errs = append(errs, &podweft.FieldError{Field: field, Value: value, Problem: problem, Remedy: remedy})
	}
	if c.Node == "" {
		bad("Node", nil, "is missing", "name the node, uniquely in the cluster")
	}
	if c.Blocks == nil {
		bad("Blocks", nil, "are missing", "make a store with a package below ipam/block")
	}
	if c.Nodes == nil {
		bad("Nodes", nil, "are missing", "make a store with a package below roster")
	}
	if !networkForm.MatchString(c.Network) {
		bad("Network", c.Network, "cannot name a network", "use up to 64 letters, digits, dots, dashes and underscores, a letter or digit first")
	}
	if c.MTU != 0 && (c.MTU < 1280 || c.MTU > 65535) {
		bad("MTU", c.MTU, "is not an MTU", "use 1280 to 65535, or 0 for that of the interface")
	}
	switch c.Routes {
	case ByStore:
	case ByBGP:
		if c.NetNS != "" {
			bad("NetNS", c.NetNS, "is not where BGP can be spoken: its engine lives in the namespace of its process",
				"start the process in that namespace, or take the routes from the store")
		}
		errs = append(errs, c.validateBGP())
	default:
		bad("Routes", c.Routes, "is no source", "use bgp or store")
	}
	switch c.BGP.Mesh {
	case FullMesh, Reflectors, NoMesh:
	default:
		bad("BGP.Mesh", c.BGP.Mesh, "is no mesh", "use full, reflectors or none")
	}
	for i, m := range c.BGP.Communities {
		if p := m.Within; !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			bad(fmt.Sprintf("BGP.Communities[%d].Within", i), p, "is not a network", "write one like 10.244.0.0/16")
		}
	}
	if c.VNI > 1<<24-1 {
		bad("VNI", c.VNI, "is not a VNI", "use 1 to 16777215")
	}
	errs = append(errs, validatePools(c.Pools))
	if i := slices.IndexFunc(c.Pools, Pool.chooses); i >= 0 && c.Policies == nil {
		bad(fmt.Sprintf("Pools[%d].Namespaces", i), nil, "cannot be told apart", "give Policies, whose source knows the namespaces' labels")
	}
	for _, v4 := range []bool{true, false} {
		all := poolsOf(c.Pools, v4)
		if len(all) > 0 && !slices.ContainsFunc(all, func(p Pool) bool { return p.Nodes.Matches(c.Labels) }) {
			bad("Pools", nil, fmt.Sprintf("of %s select no node like this one", familyName(v4)),
				"give the node the labels that one of them selects, or have a pool for it too")
		}
	}
	return errors.Join(errs...)
}

// validateBGP asks a speaker, which says nothing to anybody before it runs.
func (c Config) validateBGP() error {
	anywhere := subnet.Addrs{V4: netip.AddrFrom4([4]byte{192, 0, 2, 1}), V6: netip.MustParseAddr("2001:db8::1")} // the node's own come later
	speaker, err := bgp.New((&Agent{cfg: c}).speakerConfig(subnet.Node{Underlay: anywhere}))
	if err == nil {
		var ads []bgp.Advertisement
		for _, p := range c.BGP.Services {
			ads = append(ads, bgp.Advertisement{Prefix: p})
		}
		var peers []bgp.Peer
		errs := []error{speaker.Advertise(ads)}
		for i, p := range c.BGP.Peers {
			if p.Nodes != nil {
				p.Addr = netip.AddrFrom4([4]byte{240, byte(i >> 8), byte(i), 1}) // nobody's
			}
			peers = append(peers, p.Peer)
			if p.Nodes != nil && p.LocalAS != 0 {
				errs = append(errs, &podweft.FieldError{
					Field: fmt.Sprintf("Peers[%d].LocalAS", i), Value: p.LocalAS, Problem: "goes without Nodes, who know this one by BGP.AS", Remedy: "leave it out",
				})
			}
			// Nodes come with an AS of their own.
			if p.Nodes == nil && p.Transit == bgp.NextHopSelf && cmp.Or(p.AS, p.LocalAS, c.BGP.AS) == cmp.Or(p.LocalAS, c.BGP.AS) {
				errs = append(errs, &podweft.FieldError{
					Field: fmt.Sprintf("Peers[%d].Transit", i), Value: p.Transit, Problem: "is not for peers of our own AS, who are told of nodes as they are",
				})
			}
		}
		err = errors.Join(append(errs, speaker.SetPeers(peers))...)
	}
	if err != nil {
		return fmt.Errorf("BGP: %w", err)
	}
	return nil
}

func familyName(v4 bool) string {
	if v4 {
		return "IPv4"
	}
	return "IPv6"
}

// poolsOf are those of a family.
func poolsOf(pools []Pool, v4 bool) (all []Pool) {
	for _, p := range pools {
		if p.Prefix.IsValid() && p.is4() == v4 {
			all = append(all, p)
		}
	}
	return all
}
