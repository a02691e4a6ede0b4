package bgp

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/podweft/podweft/subnet"
)

// Peer is a speaker to have a session with. Only Addr is required.
type Peer struct {
	Name string     // for messages and Status
	Addr netip.Addr // where it is, and who it is: no two peers have the same
	AS   uint32     // zero: ours
	Port int        // where it listens; 0 means DefaultPort
	// LocalAS is the AS that we are in for this peer, and the one that it sees in paths of ours. Zero: that of the Config.
	LocalAS uint32
	// Local is our end's address. Zero is the kernel's choice.
	Local netip.Addr
	// Passive waits for the peer to dial. It is best when one end does: two that dial at the same moment have a connection too
	// many, and one time in some hundred the engine then waits for the hold time before it tries again. After a restart of this
	// process, known by Config.StateFile, a peer that has not dialled for ten seconds is dialled all the same: while it keeps our
	// routes it may be waiting for us to, as FRR does.
	Passive bool
	// Password signs each segment (TCP MD5, RFC 2385); both ends have the same. Empty: unsigned.
	Password string
	// HoldTime is the silence after which the session is dead; both ends' shorter counts. Zero means 90 seconds.
	HoldTime time.Duration
	// BFD finds out sooner.
	BFD BFD

	// ReflectorClient makes us the peer's route reflector: it is told what other internal peers know, and they what it knows.
	// It is set at the reflector; to its client a reflector is a peer like any other.
	ReflectorClient bool
	// Multihop is how many hops away an external peer may be. Zero means 1: on the link.
	Multihop int
	// TTLSecurity drops what comes from more hops away, which shows in the TTL that it has left (RFC 5082); 1 is on the link. The peer
	// must do the same. It goes without Multihop, and for internal peers too. Zero switches it off.
	TTLSecurity int
	// AllowOwnAS accepts paths in which our own AS stands up to so many times, as when each rack has the same AS.
	AllowOwnAS int
	// Transit says whether an external peer is told what others have told us. Zero means OwnOnly, as a rule.
	Transit Transit

	Import, Export Filter
}

// BFD is Bidirectional Forwarding Detection (RFC 5880): small packets back and forth that find a dead peer in a fraction of a
// second. The peer must run it too.
type BFD struct {
	// Interval between packets, both ways; zero switches BFD off.
	Interval time.Duration
	// Multiplier is after how many missing packets the peer is dead; zero means 3.
	Multiplier int
}

func (p Peer) equal(o Peer) bool {
	return p.sameSession(o) && p.Transit == o.Transit && p.Import.equal(o.Import) && p.Export.equal(o.Export)
}

// sameSession reports whether p and o differ at most in what is told over the session, which can change while the session is up.
func (p Peer) sameSession(o Peer) bool {
	return p.Name == o.Name && p.Addr == o.Addr && p.AS == o.AS && p.Port == o.Port && p.Local == o.Local &&
		p.Passive == o.Passive && p.Password == o.Password && p.HoldTime == o.HoldTime && p.BFD == o.BFD &&
		p.ReflectorClient == o.ReflectorClient && p.Multihop == o.Multihop && p.AllowOwnAS == o.AllowOwnAS &&
		p.LocalAS == o.LocalAS && p.TTLSecurity == o.TTLSecurity
}

// external reports whether the peer is of another AS than we are for it. Its defaults are filled in.
func (p Peer) external() bool { return p.AS != p.LocalAS }

func comparePeers(a, b Peer) int { return a.Addr.Compare(b.Addr) }

// String names the peer in messages: "node-3 (192.0.2.3)".
func (p Peer) String() string {
	if p.Name == "" {
		return p.Addr.String()
	}
	return fmt.Sprintf("%s (%s)", p.Name, p.Addr)
}

const (
	defaultHoldTime      = 90 * time.Second
	minHoldTime          = 3 * time.Second // RFC 4271, 4.2
	defaultBFDMultiplier = 3
	maxPassword          = 80 // TCP_MD5SIG_MAXKEYLEN
)

// withDefaults is p in a speaker of that AS.
func (p Peer) withDefaults(as uint32) Peer {
	p.LocalAS = cmp.Or(p.LocalAS, as)
	p.AS = cmp.Or(p.AS, p.LocalAS)
	if p.Port == 0 {
		p.Port = DefaultPort
	}
	if p.HoldTime == 0 {
		p.HoldTime = defaultHoldTime
	}
	if p.BFD.Multiplier == 0 {
		p.BFD.Multiplier = defaultBFDMultiplier
	}
	if p.Multihop == 0 {
		p.Multihop = 1
	}
	p.Import, p.Export = slices.Clone(p.Import), slices.Clone(p.Export)
	return p
}

// completePeers checks the peers of a speaker of that AS and returns them sorted, with every default filled in.
func completePeers(as uint32, peers []Peer) ([]Peer, error) {
	var problems problems
	full := make([]Peer, 0, len(peers))
	seen := map[netip.Addr]bool{}
	reflects := slices.ContainsFunc(peers, func(p Peer) bool { return p.ReflectorClient })
	for i, p := range peers {
		p = p.withDefaults(as)
		p.Transit = transitOf(p.Transit, p.external(), reflects)
		at := fmt.Sprintf("Peers[%d]", i)
		if seen[p.Addr] {
			problems.add(at+".Addr", p.Addr, "is there twice", "")
		}
		seen[p.Addr] = true
		p.validate(&problems, at+".")
		full = append(full, p)
	}
	slices.SortFunc(full, comparePeers)
	return full, problems.err()
}

func (p Peer) validate(problems *problems, at string) {
	if !p.Addr.IsValid() || p.Addr.Is4In6() || p.Addr.IsUnspecified() || p.Addr.IsMulticast() || p.Addr.Zone() != "" {
		problems.add(at+"Addr", p.Addr, "is not an address that a peer can have", "")
	}
	if p.Local != (netip.Addr{}) && p.Local.Is4() != p.Addr.Is4() {
		problems.add(at+"Local", p.Local, "is of another family than the peer", "")
	}
	if p.Port < 1 || p.Port > math.MaxUint16 {
		problems.add(at+"Port", p.Port, "is not a port", "use 1 to 65535")
	}
	if len(p.Password) > maxPassword {
		problems.add(at+"Password", nil, "is too long", fmt.Sprintf("use at most %d bytes", maxPassword))
	}
	if p.HoldTime < minHoldTime || p.HoldTime > math.MaxUint16*time.Second || p.HoldTime%time.Second != 0 {
		problems.add(at+"HoldTime", p.HoldTime, "is not a hold time", "use whole seconds, 3 at least")
	}
	if p.BFD.Interval != 0 && (p.BFD.Interval < 10*time.Millisecond || p.BFD.Interval > time.Minute) {
		problems.add(at+"BFD.Interval", p.BFD.Interval, "is not an interval", "use 10ms to 1m")
	}
	if p.BFD.Multiplier < 1 || p.BFD.Multiplier > math.MaxUint8 {
		problems.add(at+"BFD.Multiplier", p.BFD.Multiplier, "is not a multiplier", "use 1 to 255")
	}
	if p.ReflectorClient && p.external() {
		problems.add(at+"ReflectorClient", nil, "is for peers of our own AS", "")
	}
	if p.Multihop < 1 || p.Multihop > math.MaxUint8 {
		problems.add(at+"Multihop", p.Multihop, "is not a number of hops", "use 1 to 255")
	}
	switch {
	case p.TTLSecurity < 0 || p.TTLSecurity > math.MaxUint8:
		problems.add(at+"TTLSecurity", p.TTLSecurity, "is not a number of hops", "use 1 to 255, or 0 for none")
	case p.TTLSecurity > 0 && p.Multihop > 1:
		problems.add(at+"TTLSecurity", p.TTLSecurity, "says already how far away the peer may be", "drop Multihop")
	}
	if p.AllowOwnAS < 0 || p.AllowOwnAS > math.MaxUint8 {
		problems.add(at+"AllowOwnAS", p.AllowOwnAS, "is not a number of times", "use 0 to 255")
	}
	if !p.Transit.valid() {
		problems.add(at+"Transit", p.Transit, "is unknown", "use own, keep or self")
	}
	p.Import.validate(problems, at+"Import")
	p.Export.validate(problems, at+"Export")
}

// Node is a node of a full mesh.
type Node struct {
	Name  string
	AS    uint32       // zero: ours
	Addrs subnet.Addrs // where it speaks BGP
}

// Mesh returns the peers of self in a full mesh of nodes: everybody else, each like the given Peer but for Name, AS, Addr,
// Local and Passive. Two nodes speak over IPv4 if both have it, else over IPv6; the one with the lower address dials. Those with
// no family in common are left out, and a node that is not among nodes has no peers.
func Mesh(self string, nodes []Node, like Peer) []Peer {
	i := slices.IndexFunc(nodes, func(n Node) bool { return n.Name == self })
	if i < 0 {
		return nil
	}
	own := nodes[i].Addrs
	var peers []Peer
	for _, n := range nodes {
		p := like
		p.Name, p.AS = n.Name, n.AS
		switch {
		case n.Name == self:
			continue
		case own.V4.IsValid() && n.Addrs.V4.IsValid():
			p.Local, p.Addr = own.V4, n.Addrs.V4
		case own.V6.IsValid() && n.Addrs.V6.IsValid():
			p.Local, p.Addr = own.V6, n.Addrs.V6
		default:
			continue
		}
		p.Passive = p.Addr.Less(p.Local)
		peers = append(peers, p)
	}
	return peers
}
