package calico

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/forward"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/ipip"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/policy/nftables"
	"github.com/podweft/podweft/ptp"
	"github.com/podweft/podweft/vxlan"
)

// driver is what all drivers have.
type driver[S any] interface {
	podweft.Driver[S]
	Teardown(ctx context.Context) (podweft.Plan, error)
	io.Closer
}

// part is a driver that a loop keeps at its Spec.
type part[S any] struct {
	named string
	driver[S]
	loop *podweft.Loop[S]

	last S
	told bool // to keep something
}

// keeper is any part.
type keeper interface {
	name() string
	run(ctx context.Context) error
	wait(ctx context.Context) error
	plan(ctx context.Context) (podweft.Plan, error)
	status() podweft.Status
	Teardown(ctx context.Context) (podweft.Plan, error)
	Close() error
}

func (p *part[S]) name() string { return p.named }

// want has the part kept as spec says.
func (p *part[S]) want(spec S) {
	if !p.told || !reflect.DeepEqual(p.last, spec) {
		p.last, p.told = spec, true
		p.loop.Set(spec)
	}
}

func (p *part[S]) run(ctx context.Context) error { return p.loop.Run(ctx) }

// wait returns when the part has worked through what it was last told to.
func (p *part[S]) wait(ctx context.Context) error {
	return p.loop.Wait(ctx, p.loop.Status().Generation)
}

// plan is what it would do now.
func (p *part[S]) plan(ctx context.Context) (podweft.Plan, error) { return p.Plan(ctx, p.last) }

func (p *part[S]) status() podweft.Status { return p.loop.Status() }

// parts are all that an agent keeps in the kernel.
type parts struct {
	direct  *part[hostgw.Spec]
	vxlan   *part[vxlan.Spec]
	ipip    *part[ipip.Spec]
	ports   *part[ptp.Spec]
	nat     *part[nat.Spec]
	forward *part[forward.Spec]  // nil where it is not wanted
	policy  *part[nftables.Spec] // nil where there are no policies; it is a gate's to say what it is kept at
	all     []keeper
}

// openParts opens the sockets of all of them.
func openParts(cfg Config) (*parts, error) {
	p := &parts{}
	var errs []error
	loop := podweft.LoopConfig{Logger: cfg.Logger}
	gw, err := hostgw.New(hostgw.Config{Owner: cfg.Network, NetNS: cfg.NetNS, Logger: cfg.Logger})
	p.direct = add(p, &errs, "routes", gw, err, loop)
	vx, err := vxlan.New(vxlan.Config{Owner: cfg.Network, NetNS: cfg.NetNS, Logger: cfg.Logger})
	p.vxlan = add(p, &errs, "vxlan", vx, err, loop)
	ip, err := ipip.New(ipip.Config{Owner: cfg.Network, NetNS: cfg.NetNS, Logger: cfg.Logger})
	p.ipip = add(p, &errs, "ipip", ip, err, loop)
	pods, err := ptp.NewDriver(ptp.Config{Owner: cfg.Network, NetNS: cfg.NetNS, Logger: cfg.Logger})
	p.ports = add(p, &errs, "ports", pods, err, loop)
	mask, err := nat.New(nat.Config{Owner: cfg.Network, NetNS: cfg.NetNS, Logger: cfg.Logger})
	p.nat = add(p, &errs, "nat", mask, err, loop)
	if cfg.Forward {
		loop.Resync = forward.Resync
		fw, err := forward.New(forward.Config{Owner: cfg.Network, NetNS: cfg.NetNS, Logger: cfg.Logger})
		p.forward = add(p, &errs, "forward", fw, err, loop)
	}
	if cfg.Policies != nil {
		rules, err := cfg.rules()
		p.policy = add(p, &errs, "policy", rules, err, podweft.LoopConfig{Logger: cfg.Logger})
	}
	if len(errs) > 0 {
		return nil, errors.Join(append(errs, p.Close())...)
	}
	return p, nil
}

// rules is what holds the node's pods to policies.
func (c Config) rules() (*nftables.Driver, error) {
	return nftables.New(nftables.Config{Owner: c.Network, NetNS: c.NetNS, Logger: c.Logger})
}

// add makes a part of a driver that could be opened.
func add[S any](to *parts, errs *[]error, name string, d driver[S], err error, cfg podweft.LoopConfig) *part[S] {
	if err != nil {
		*errs = append(*errs, fmt.Errorf("%s: %w", name, err))
		return nil
	}
	p := &part[S]{named: name, driver: d, loop: podweft.NewLoop[S](d, cfg)}
	to.all = append(to.all, p)
	return p
}

// Close frees their sockets. What they made stays.
func (p *parts) Close() error {
	var errs []error
	for _, k := range p.all {
		errs = append(errs, k.Close())
	}
	return errors.Join(errs...)
}
