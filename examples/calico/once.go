package calico

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/forward"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/policy/nftables"
	"github.com/podweft/podweft/ptp"
)

// plan writes what a start would change on this node, and changes nothing, in the kernel or in the store. What speakers would tell is
// not known without one: the store stands in for them, which has what they advertise.
func (o *Options) plan(ctx context.Context, out io.Writer) error {
	cfg := o.Config.withDefaults()
	cfg.Logger = o.Config.Logger
	a := &Agent{cfg: cfg, log: cfg.Logger}
	self, networks, err := a.place(ctx)
	if err != nil {
		return err
	}
	v := view{self: self, networks: networks, pools: cfg.Pools, vni: cfg.VNI, port: cfg.VXLANPort}
	if v.tunnels, err = a.knownTunnels(ctx); err != nil {
		return err
	}
	nodes, err := cfg.Nodes.Nodes(ctx)
	if err != nil {
		return err
	}
	var problems []string
	v.nodes, problems = fellowsOf(nodes, self)
	shares, err := sharesOf(ctx, cfg.Blocks, cfg.Pools)
	if err != nil {
		return err
	}
	v.own = shares[cfg.Node]
	v.paths = v.fromStore(shares)
	_, _ = fmt.Fprintf(out, "node %s on %s (%s), MTU of pods %d\n", cfg.Node, self.Device, self.Underlay, v.podMTU())
	for _, p := range problems {
		_, _ = fmt.Fprintf(out, "left out: %s\n", p)
	}
	parts, err := openParts(cfg)
	if err != nil {
		return err
	}
	defer parts.Close()
	parts.tell(v)
	var errs []error
	if cfg.Policies != nil {
		p, err := newPolicing(cfg, parts.policy)
		if err != nil {
			return err
		}
		errs = append(errs, p.remember(), p.settle(v), p.list(ctx))
		parts.policy.last = p.spec
	}
	var plans []podweft.Plan
	for _, k := range parts.all {
		changes, err := k.plan(ctx)
		errs = append(errs, err)
		plans = append(plans, changes)
	}
	if cfg.Policies == nil {
		changes, err := cfg.liftPlan(ctx)
		errs = append(errs, err)
		plans = append(plans, changes)
	}
	passOver(plans)
	for _, changes := range plans {
		_, _ = fmt.Fprint(out, changes)
	}
	return errors.Join(errs...)
}

// liftPlan is what becomes of an earlier agent's policies, where there are none now.
func (c Config) liftPlan(ctx context.Context) (podweft.Plan, error) {
	rules, err := c.rules()
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	defer rules.Close()
	return rules.Plan(ctx, nftables.Spec{})
}

// passOver takes back what plans say of an object of another program's that is in the way, where that is one of ours: another plan removes it,
// as when a pool's packets are to be wrapped up from now on.
func passOver(plans []podweft.Plan) {
	going := map[string]bool{}
	for _, changes := range plans {
		for _, c := range changes {
			if c.Op == podweft.Delete {
				going[c.Object.ID()] = true
			}
		}
	}
	for _, changes := range plans {
		for i, c := range changes {
			if c.Op == podweft.Create && going[c.Object.ID()] && errors.Is(c.Err, podweft.ErrConflict) {
				changes[i].Err = nil
			}
		}
	}
}

// tell says to all parts what follows from a view.
func (p *parts) tell(v view) specs {
	p.tellOwn(v)
	s := v.compile()
	p.direct.want(s.direct)
	p.vxlan.want(s.vxlan)
	p.ipip.want(s.ipip)
	return s
}

// tellOwn says to those parts that look after the node's own pods what follows from a view.
func (p *parts) tellOwn(v view) {
	p.ports.want(ptp.Spec{Local: v.own})
	p.nat.want(masquerade(v.pools, v.own))
	if p.forward != nil {
		p.forward.want(forward.Spec{Networks: prefixes(v.pools)})
	}
}

// cleanup removes everything of the agent's from this node, gives its blocks back and takes the node out of the store. It goes on past
// what fails.
func (o *Options) cleanup(ctx context.Context, out io.Writer) error {
	cfg := o.Config.withDefaults()
	if _, err := cfg.ask(ctx); err == nil {
		return errors.New("an agent is running on this node: end it first")
	}
	a := &Agent{cfg: cfg, log: cfg.Logger}
	var errs []error
	everything := cfg // an agent may have had what is not asked for now
	everything.Forward, everything.Policies = true, PolicyFiles(nil)
	parts, err := openParts(everything)
	if err != nil {
		return err
	}
	defer parts.Close()
	for _, k := range parts.all {
		changes, err := k.Teardown(ctx)
		_, _ = fmt.Fprint(out, changes)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", k.name(), err))
		}
	}
	claimers, err := a.claimers()
	errs = append(errs, err)
	for _, c := range claimers {
		errs = append(errs, giveBack(ctx, out, c))
	}
	errs = append(errs, cfg.Nodes.Forget(ctx, cfg.Node))
	for _, path := range []string{cfg.CNIConf, cfg.addressFile(), a.speakerFile(), cfg.socket()} {
		switch err := os.Remove(path); {
		case err == nil:
			_, _ = fmt.Fprintf(out, "- file %s\n", path)
		case path != "" && !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func giveBack(ctx context.Context, out io.Writer, c *block.Claimer) error {
	shares, err := c.Shares(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range shares {
		if err := c.Return(ctx, s.Prefix); err != nil {
			errs = append(errs, err)
			continue
		}
		_, _ = fmt.Fprintf(out, "- block %s\n", s)
	}
	return errors.Join(errs...)
}
