package flannel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/netip"
	"os"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/adopt"
	"github.com/podweft/podweft/forward"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/node"
	"github.com/podweft/podweft/subnet"
)

// plan writes what a start would change on this node, and changes nothing: not in the kernel and not in the store.
func (o *Options) plan(ctx context.Context, out io.Writer) error {
	store, err := o.open(ctx, nil)
	if err != nil {
		return err
	}
	defer store.Close()
	begun, err := begin(ctx, store, o.StoreWait)
	if err != nil {
		return err
	}
	begun.close()
	snap := begun.first
	if err := o.chooseUnderlay(ctx); err != nil {
		return err
	}
	self, err := node.Choose(ctx, o.NetNS, o.Underlay)
	if err != nil {
		return err
	}
	self.Name = o.NodeName
	back, err := newBackend(snap.Network.Backend.Type, place{o.Owner, o.NetNS, nil})
	if err != nil {
		return err
	}
	defer back.Close()
	given, err := o.given(ctx, store)
	if err != nil {
		return err
	}
	lease, mtu, err := presumed(self, snap, back, given)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(out, "lease %s on %s\n", lease, self.Device)
	if o.Adopt {
		f, err := adopt.NewFlannel(adopt.Config{Owner: o.Owner, NetNS: o.NetNS})
		if err != nil {
			return err
		}
		defer f.Close()
		taken, err := f.Plan(ctx, snap)
		if err != nil {
			return err
		}
		_, _ = fmt.Fprint(out, taken)
	}
	with := *snap
	with.Leases = append(slices.DeleteFunc(slices.Clone(snap.Leases), func(l *subnet.Lease) bool {
		return l.Prefixes == lease.Prefixes
	}), lease)
	plan, err := back.plan(ctx, self, &with)
	if err != nil {
		return err
	}
	firewall, err := o.planFirewall(ctx, snap.Network, lease)
	if err != nil {
		return err
	}
	files, err := o.planFiles(snap.Network, lease, mtu)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(out, slices.Concat(plan, firewall, files))
	return err
}

// presumed is the lease that a start would get: what the node was given, what it has, or most likely one like it.
func presumed(self subnet.Node, snap *subnet.Snapshot, back node.Backend, given subnet.Prefixes) (lease *subnet.Lease, mtu int, err error) {
	own := snap.Of(self)
	lease = &subnet.Lease{Key: "~", Node: self.Name, Underlay: self.Published(), Backend: back.Type()}
	switch {
	case !given.IsZero():
		lease.Prefixes = given
		if own != nil {
			lease.Data = own.Data
		}
	case own != nil && snap.Network.Fits(own.Prefixes):
		lease.Prefixes, lease.Data = own.Prefixes, own.Data
	default:
		if lease.Prefixes, err = snap.Network.Pick(nil, prefixes(snap)); err != nil {
			return nil, 0, err
		}
	}
	lease.Data, mtu, err = back.Publish(self, snap.Network, lease.Data)
	return lease, mtu, err
}

func prefixes(snap *subnet.Snapshot) iter.Seq[subnet.Prefixes] {
	return func(yield func(subnet.Prefixes) bool) {
		for _, l := range snap.Leases {
			if !yield(l.Prefixes) {
				return
			}
		}
	}
}

// planFiles is what is not in the node's files.
func (o *Options) planFiles(network *subnet.Network, lease *subnet.Lease, mtu int) (plan podweft.Plan, err error) {
	wanted := map[string][]byte{o.SubnetFile: subnetFile(network, lease.Prefixes, mtu, o.IPMasq)}
	paths := []string{o.SubnetFile}
	if o.cni.source != "" {
		if wanted[o.cni.list], err = os.ReadFile(o.cni.source); err != nil {
			return nil, fmt.Errorf("--cni-conf-source: %w", err)
		}
		paths = append(paths, o.cni.list)
	}
	for _, path := range paths {
		change := podweft.Change{Op: podweft.Update, Object: podweft.Named("file " + path)}
		switch text, err := os.ReadFile(path); {
		case errors.Is(err, fs.ErrNotExist):
			change.Op = podweft.Create
		case err != nil:
			return nil, err
		case bytes.Equal(text, wanted[path]):
			continue
		}
		plan = append(plan, change)
	}
	return plan, nil
}

// planFirewall is what the kernel lacks to forward pods' packets, and netfilter to let them pass.
func (o *Options) planFirewall(ctx context.Context, network *subnet.Network, lease *subnet.Lease) (plan podweft.Plan, err error) {
	var cluster []netip.Prefix
	for _, r := range []subnet.Range{network.V4, network.V6} {
		if r.Network.IsValid() {
			cluster = append(cluster, r.Network)
		}
	}
	if plan, err = forward.PlanEnable(o.NetNS, cluster...); err != nil {
		return nil, err
	}
	if o.IPMasq {
		d, err := nat.New(nat.Config{Owner: o.Owner, NetNS: o.NetNS})
		if err != nil {
			return nil, err
		}
		defer d.Close()
		masked, err := d.Plan(ctx, nat.Spec{Masquerade: slices.Collect(lease.Prefixes.All()), Exempt: cluster})
		if err != nil {
			return nil, err
		}
		plan = append(plan, masked...)
	}
	if o.Forward {
		d, err := forward.New(forward.Config{Owner: o.Owner, NetNS: o.NetNS})
		if err != nil {
			return nil, err
		}
		defer d.Close()
		passes, err := d.Plan(ctx, forward.Spec{Networks: cluster})
		if err != nil {
			return nil, err
		}
		plan = append(plan, passes...)
	}
	return plan, nil
}

// cleanup removes everything of ours from this node: what any backend made, the masquerade, what a takeover left, and the files. The
// lease ends by itself. It goes on past what fails.
func (o *Options) cleanup(ctx context.Context, out io.Writer) error {
	var errs []error
	remove := func(what string, part torn, err error) {
		if err == nil {
			var plan podweft.Plan
			plan, err = part.Teardown(ctx)
			_, _ = fmt.Fprint(out, plan)
			_ = part.Close()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	for _, k := range kinds {
		b, err := k.make(place{o.Owner, o.NetNS, nil})
		remove(k.name, b, err)
	}
	d, err := nat.New(nat.Config{Owner: o.Owner, NetNS: o.NetNS})
	remove("masquerade", d, err)
	f, err := forward.New(forward.Config{Owner: o.Owner, NetNS: o.NetNS})
	remove("forward", f, err)
	a, err := adopt.NewFlannel(adopt.Config{Owner: o.Owner, NetNS: o.NetNS})
	remove("takeover", a, err)
	paths := []string{o.SubnetFile, o.StateFile}
	if o.cni.source != "" { // else the configuration is somebody else's
		paths = append(paths, o.cni.list)
	}
	for _, path := range paths {
		if err := os.Remove(path); err == nil {
			_, _ = fmt.Fprintf(out, "- file %s\n", path)
		} else if path != "" && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// torn is a part that a cleanup tears down.
type torn interface {
	Teardown(ctx context.Context) (podweft.Plan, error)
	io.Closer
}
