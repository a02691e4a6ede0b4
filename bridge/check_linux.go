package bridge

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/cable"
	"github.com/podweft/podweft/internal/nl"
)

// ErrMissing: something that Attach made is not there any more.
var ErrMissing = cable.ErrMissing

// Check reports everything of b and p that is not as Attach made it, joined; most are [ErrMissing]. It changes nothing. What
// others have added since, and the MAC and MTU of the pod's end, are theirs.
func (a *Attacher) Check(ctx context.Context, b Bridge, p Port) error {
	b = b.withDefaults()
	p = p.withDefaults(a.node.Owner, b)
	if err := errors.Join(b.Validate(), p.Validate(), p.fits(b)); err != nil {
		return err
	}
	pod, err := a.node.Enter(p.NetNS)
	if err != nil {
		return err
	}
	defer pod.Close()
	br, err := a.checkBridge(b)
	if err != nil {
		return err
	}
	v := a.veth(b, br, p)
	if err := v.Look(ctx, a.node, pod); err != nil {
		return err
	}
	return errors.Join(v.checkHost(), v.CheckHost(ctx, a.node), v.setup().Check(ctx, pod))
}

func (a *Attacher) checkBridge(b Bridge) (nl.Link, error) {
	br, err := a.node.Conn.Link(b.Name)
	if err != nil {
		return br, cable.Gone(err, "link "+b.Name)
	}
	if !cable.Bears(br.Alias, a.node.Mark) {
		return br, &podweft.OpError{Op: "check", Object: podweft.Named("link " + b.Name), Err: cable.Conflict(br)}
	}
	have, err := a.node.Conn.Addresses(br.Index)
	if err != nil {
		return br, err
	}
	var errs []error
	if !br.Up {
		errs = append(errs, cable.Missing("link "+b.Name+" up"))
	}
	for _, g := range b.Gateways {
		if !slices.ContainsFunc(have, func(h nl.Address) bool { return h.Prefix == g }) {
			errs = append(errs, cable.Missing(cable.AddressText(b.Name, nl.Address{Prefix: g})))
		}
	}
	return br, errors.Join(errs...)
}

func (v *veth) checkHost() error {
	var errs []error
	if v.Have.Master != v.br.Index {
		errs = append(errs, cable.Missing(fmt.Sprintf("link %s master %s", v.Host.Name, v.br.Name)))
	}
	if !v.Have.Up {
		errs = append(errs, cable.Missing("link "+v.Host.Name+" up"))
	}
	if v.port.Hairpin && !v.Have.Hairpin {
		errs = append(errs, cable.Missing("link "+v.Host.Name+" hairpin"))
	}
	if v.port.Isolated && !v.Have.Isolated {
		errs = append(errs, cable.Missing("link "+v.Host.Name+" isolated"))
	}
	return errors.Join(errs...)
}
