package flannel

import (
	"context"
	"log/slog"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/ipip"
	"github.com/podweft/podweft/node"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/udp"
	"github.com/podweft/podweft/vxlan"
)

// place is where drivers work, and as whom.
type place struct {
	owner, netns string
	log          *slog.Logger
}

// backend is what the daemon needs of a driver.
type backend struct {
	node.Backend
	torn
	plan func(context.Context, subnet.Node, *subnet.Snapshot) (podweft.Plan, error)
}

// kinds are the backends that net-conf.json can name. No driver registers itself: these are the ones that we import.
var kinds = []struct {
	name string
	make func(place) (*backend, error)
}{
	{vxlan.Type, func(p place) (*backend, error) {
		d, err := vxlan.New(vxlan.Config{Owner: p.owner, NetNS: p.netns, Logger: p.log})
		return compose(p, d, err, vxlan.Type, vxlan.NewCompiler(), vxlan.Publish)
	}},
	{hostgw.Type, func(p place) (*backend, error) {
		d, err := hostgw.New(hostgw.Config{Owner: p.owner, NetNS: p.netns, Logger: p.log})
		return compose(p, d, err, hostgw.Type, hostgw.NewCompiler(), hostgw.Publish)
	}},
	{ipip.Type, func(p place) (*backend, error) {
		d, err := ipip.New(ipip.Config{Owner: p.owner, NetNS: p.netns, Logger: p.log})
		return compose(p, d, err, ipip.Type, ipip.NewCompiler(), ipip.Publish)
	}},
	{udp.Type, func(p place) (*backend, error) {
		d, err := udp.New(udp.Config{Owner: p.owner, NetNS: p.netns, Logger: p.log})
		return compose(p, d, err, udp.Type, udp.NewCompiler(), udp.Publish)
	}},
}

// newBackend makes the backend that the network's configuration names.
func newBackend(kind string, p place) (*backend, error) {
	names := ""
	for _, k := range kinds {
		if k.name == kind {
			return k.make(p)
		}
		names += " " + k.name
	}
	return nil, &podweft.FieldError{Field: "Backend.Type", Value: kind, Problem: "is not one that this daemon has", Remedy: "write one of" + names}
}

// driver is what all drivers have.
type driver[S any] interface {
	podweft.Driver[S]
	torn
}

// forwarder is a driver that moves packets itself.
type forwarder interface {
	Forward(ctx context.Context) error
}

func compose[S any](
	p place, d driver[S], err error, kind string,
	compile func(subnet.Node, *subnet.Snapshot) (S, []subnet.Problem, error),
	publish func(subnet.Node, *subnet.Network, subnet.Data) (subnet.Data, int, error),
) (*backend, error) {
	if err != nil {
		return nil, err
	}
	parts := node.Parts[S]{Type: kind, Driver: d, Compile: compile, Publish: publish, Loop: podweft.LoopConfig{Logger: p.log}}
	if d, ok := d.(forwarder); ok {
		parts.Forward = d.Forward
	}
	return &backend{
		Backend: node.NewBackend(parts),
		torn:    d,
		plan: func(ctx context.Context, self subnet.Node, snap *subnet.Snapshot) (podweft.Plan, error) {
			spec, _, err := compile(self, snap)
			if err != nil {
				return nil, err
			}
			return d.Plan(ctx, spec)
		},
	}, nil
}
