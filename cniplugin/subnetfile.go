package cniplugin

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// DefaultSubnetFile is where flannel's daemon, and ours, says what subnet the node has.
const DefaultSubnetFile = "/run/flannel/subnet.env"

// errNoLease is why a node that has just joined, or started, cannot attach pods. Nothing was done when a call ends with it.
var errNoLease = errors.New("no subnet lease yet")

// leaseComes reports whether the lease that an ADD lacks comes while it waits.
func (t *task) leaseComes() bool {
	return t.comes(func() bool {
		_, err := os.Stat(t.config.subnetFile())
		return err == nil
	})
}

// subnetFile is what that file says.
type subnetFile struct {
	networks []netip.Prefix // FLANNEL_NETWORK and FLANNEL_IPV6_NETWORK: the cluster's
	subnets  []netip.Prefix // FLANNEL_SUBNET and FLANNEL_IPV6_SUBNET: the node's; each with the gateway as address
	mtu      int            // FLANNEL_MTU
	ipMasq   bool           // FLANNEL_IPMASQ: the daemon masquerades
}

// readLease reads it, for an ADD to record. That it is not there is the usual state of a node that has just joined, and no reason to
// find a pod changed that was attached before: its record has what it was then.
func (c *config) readLease() (subnetFile, error) {
	path := c.subnetFile()
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && c.lease != "" {
		raw, err = []byte(c.lease), nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return subnetFile{}, &Error{
			Code: CodeTryAgain, Err: errors.Join(errNoLease, err),
			Msg: "no subnet lease yet: is podweft-flannel running? looked for " + path,
		}
	}
	if err != nil {
		return subnetFile{}, fail(CodeIO, "the node's subnet cannot be read", err)
	}
	s, err := parseSubnetFile(string(raw))
	if err != nil {
		return s, fail(CodeIO, "the node's subnet file "+path+" makes no sense: is podweft-flannel running?", err)
	}
	c.lease = string(raw)
	return s, nil
}

func parseSubnetFile(text string) (s subnetFile, err error) {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue // as flannel's plugin does
		}
		switch key {
		case "FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK":
			for one := range strings.SplitSeq(value, ",") {
				var p netip.Prefix
				if p, err = netip.ParsePrefix(one); err == nil {
					s.networks = append(s.networks, p.Masked())
				}
			}
		case "FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET":
			var p netip.Prefix
			if p, err = netip.ParsePrefix(value); err == nil {
				s.subnets = append(s.subnets, p)
			}
		case "FLANNEL_MTU":
			s.mtu, err = strconv.Atoi(value)
		case "FLANNEL_IPMASQ":
			s.ipMasq, err = strconv.ParseBool(value)
		}
		if err != nil {
			return s, fmt.Errorf("%s: %w", key, err)
		}
	}
	if len(s.subnets) == 0 {
		return s, errors.New("it has neither FLANNEL_SUBNET nor FLANNEL_IPV6_SUBNET")
	}
	return s, nil
}
