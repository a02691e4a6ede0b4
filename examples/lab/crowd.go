package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft/testnet"
)

// neighbourLimit is how many neighbours the kernel remembers that it found by itself, in all namespaces together and in each
// family (gc_thresh3 in man 7 arp, which only the host can raise). Real nodes have a kernel each.
const neighbourLimit = 1024

// crowded reports whether that comes close to what the cluster finds on its bridges when everybody talks to everybody. (On
// the underlay it finds none: testnet's machines know each other.)
func (c *cluster) crowded() bool {
	found := 0
	for _, m := range c.members {
		found += len(m.pods) * (len(m.pods) + 1) // with the node
	}
	return found > neighbourLimit*3/4
}

// introduce tells each node and its pods the MACs of each other. What was told does not count against the limit.
func (c *cluster) introduce() error {
	for _, m := range c.members {
		node, err := stationOf(m.machine, "cni0")
		if err != nil {
			return err
		}
		stations := []station{node}
		for _, p := range m.pods {
			pod, err := stationOf(p.machine, "eth0")
			if err != nil {
				return err
			}
			stations = append(stations, pod)
		}
		for _, s := range stations {
			if err := s.meet(stations); err != nil {
				return err
			}
		}
	}
	return nil
}

// station is a machine's place on a LAN.
type station struct {
	machine *testnet.Node
	link    testnet.Link
}

func stationOf(machine *testnet.Node, link string) (station, error) {
	links, err := machine.Links()
	if err != nil {
		return station{}, err
	}
	i := slices.IndexFunc(links, func(l testnet.Link) bool { return l.Name == link })
	if i < 0 {
		return station{}, fmt.Errorf("%s has no %s", machine.Name, link)
	}
	return station{machine, links[i]}, nil
}

// meet gives the station a permanent neighbour entry for each address of the others.
func (s station) meet(all []station) error {
	k, err := openKernel(s.machine)
	if err != nil {
		return err
	}
	defer k.close()
	var errs []error
	for _, other := range all {
		if other.machine == s.machine {
			continue
		}
		for _, a := range other.link.Addrs {
			err := k.h.NeighSet(&netlink.Neigh{
				LinkIndex: s.link.Index, State: netlink.NUD_PERMANENT, IP: a.Addr().AsSlice(), HardwareAddr: other.link.MAC[:],
			})
			if err != nil {
				errs = append(errs, fmt.Errorf("neighbour %s of %s: %w", a.Addr(), k.name, err))
			}
		}
	}
	return errors.Join(errs...)
}
