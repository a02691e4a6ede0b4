package bgp

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

// DefaultPort is where BGP speakers listen.
const DefaultPort = 179

// DefaultRestartTime is how long peers keep this node's routes while its process is away, and it theirs.
const DefaultRestartTime = 2 * time.Minute

// Config says who a Speaker is. AS and an address in NextHop are required.
type Config struct {
	// AS is the number of the autonomous system; 64512 to 65534 and 4200000000 to 4294967294 are for private use.
	AS uint32
	// RouterID is an IPv4 address that no other speaker of the AS has; it need not be reachable. Zero means NextHop.V4. A node
	// without IPv4 must be given one.
	RouterID netip.Addr
	// NextHop is where peers send packets for what this node advertises: its underlay addresses. With no V4, IPv4 prefixes
	// are advertised with the V6 next hop (RFC 8950).
	NextHop subnet.Addrs
	// ClusterID names the reflectors that reflect to the same clients; zero means RouterID. It matters to reflectors only.
	ClusterID netip.Addr

	// Listen are the addresses to accept sessions at; none means all of both families.
	Listen []netip.Addr
	// Port to listen at; 0 means DefaultPort, -1 not to listen and only to dial.
	Port int

	// RestartTime is how long peers keep this node's routes while its process is away: they take it from us, and we from
	// them. Zero means DefaultRestartTime; negative switches graceful restart off.
	RestartTime time.Duration
	// StateFile keeps what was learned over a restart of the process (not of the machine, whose routes are gone). A first
	// snapshot then has the paths of before, until each peer has told all it knows, or RestartTime is over. Empty: a restarted
	// Speaker knows nothing, and a driver removes all routes until the sessions are back.
	StateFile string

	// Logger takes a line for each session that comes and goes, and what the engine warns of. Nil is silent.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.RouterID == (netip.Addr{}) {
		c.RouterID = c.NextHop.V4
	}
	if c.ClusterID == (netip.Addr{}) {
		c.ClusterID = c.RouterID
	}
	c.Port = cmp.Or(c.Port, DefaultPort)
	c.RestartTime = max(0, cmp.Or(c.RestartTime, DefaultRestartTime)) // from here on zero is off
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// maxRestartTime is what twelve bits of the graceful restart capability hold, in seconds (RFC 4724, 3).
const maxRestartTime = 4095 * time.Second

// Validate reports everything that is wrong with c, joined, each as a [*podweft.FieldError].
func (c Config) Validate() error {
	var p problems
	if c.AS == 0 {
		p.add("AS", nil, "is missing", "64512 to 65534 are for private use")
	}
	if c.NextHop.IsZero() {
		p.add("NextHop", nil, "is missing", "give the node's underlay addresses")
	}
	if a := c.NextHop.V4; a != (netip.Addr{}) && !(a.Is4() && a.IsGlobalUnicast()) {
		p.add("NextHop.V4", a, "is not an IPv4 address that packets can be sent to", "")
	}
	if a := c.NextHop.V6; a != (netip.Addr{}) && !(isIPv6(a) && a.IsGlobalUnicast() && a.Zone() == "") {
		p.add("NextHop.V6", a, "is not an IPv6 address that packets can be sent to", "")
	}
	switch id := cmp.Or(c.RouterID, c.NextHop.V4); {
	case id == (netip.Addr{}):
		p.add("RouterID", nil, "is missing", "a node without IPv4 needs a number of its own in that form, such as 10.0.0.7")
	case !id.Is4() || id.IsUnspecified():
		p.add("RouterID", id, "is not an IPv4 address", "")
	}
	if id := c.ClusterID; id != (netip.Addr{}) && (!id.Is4() || id.IsUnspecified()) {
		p.add("ClusterID", id, "is not an IPv4 address", "")
	}
	for i, a := range c.Listen {
		if !a.IsValid() || a.Is4In6() {
			p.add(fmt.Sprintf("Listen[%d]", i), a, "is not an address", "")
		}
	}
	if c.Port < -1 || c.Port > math.MaxUint16 {
		p.add("Port", c.Port, "is not a port", "use 1 to 65535, or -1 to accept no sessions")
	}
	if c.RestartTime > maxRestartTime {
		p.add("RestartTime", c.RestartTime, "is too long", "use at most "+maxRestartTime.String())
	}
	return p.err()
}

// nextHop is what a's prefix is advertised with, and whether there is one.
func (c Config) nextHop(a Advertisement) (netip.Addr, bool) {
	hop := a.NextHop
	switch {
	case hop != (netip.Addr{}):
	case a.Prefix.Addr().Is4() && c.NextHop.V4.IsValid():
		hop = c.NextHop.V4
	default:
		hop = c.NextHop.V6
	}
	return hop, hop.IsValid()
}

// complete checks the advertisements and returns them sorted, with next hops and their communities in order.
func (c Config) complete(ads []Advertisement) ([]Advertisement, error) {
	var p problems
	full := make([]Advertisement, 0, len(ads))
	seen := map[netip.Prefix]bool{}
	for i, a := range ads {
		at := fmt.Sprintf("Advertisements[%d].", i)
		hop, ok := c.nextHop(a)
		switch {
		case !a.Prefix.IsValid() || a.Prefix != a.Prefix.Masked() || a.Prefix.Addr().Is4In6():
			p.add(at+"Prefix", a.Prefix, "is not a subnet", "leave no host bits set")
		case seen[a.Prefix]:
			p.add(at+"Prefix", a.Prefix, "is there twice", "")
		case !ok:
			p.add(at+"NextHop", nil, "is missing for "+a.Prefix.String(), "give Config.NextHop.V6")
		case !hop.IsGlobalUnicast() || hop.Is4In6() || hop.Zone() != "" || hop.Is4() && !a.Prefix.Addr().Is4():
			p.add(at+"NextHop", hop, "cannot be the next hop of "+a.Prefix.String(), "")
		}
		seen[a.Prefix] = true
		full = append(full, Advertisement{a.Prefix, hop, inOrder(a.Communities)})
	}
	return full, p.err()
}

func isIPv6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() }

// problems collects what is wrong with a value.
type problems struct{ errs []error }

func (p *problems) add(field string, value any, problem, remedy string) {
	p.errs = append(p.errs, &podweft.FieldError{Field: field, Value: value, Problem: problem, Remedy: remedy})
}

func (p *problems) err() error { return errors.Join(p.errs...) }
