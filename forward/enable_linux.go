package forward

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/sysctl"
)

// Enable lets the node, in the network namespace at netns (empty: the caller's), forward packets of the families that networks are
// of. The error is a [*podweft.OpError] that says what an administrator can do, or a [*podweft.FieldError] for what is no network,
// for the sake of which nothing is changed.
func Enable(netns string, networks ...netip.Prefix) error {
	if err := validate(networks); err != nil {
		return err
	}
	for _, key := range forwardingOf(networks) {
		if err := sysctl.Ensure(netns, key, "1"); err != nil {
			return err
		}
	}
	return nil
}

// PlanEnable says what Enable would change.
func PlanEnable(netns string, networks ...netip.Prefix) (plan podweft.Plan, err error) {
	if err := validate(networks); err != nil {
		return nil, err
	}
	for _, key := range forwardingOf(networks) {
		value, err := sysctl.Get(netns, key)
		if err != nil {
			return nil, err
		}
		if value != "1" {
			plan = append(plan, podweft.Change{Op: podweft.Update, Object: podweft.Named("sysctl " + key + "=1")})
		}
	}
	return plan, nil
}

// validate reports what has no family: IPv6 would be forwarded for it.
func validate(networks []netip.Prefix) error {
	var errs []error
	for i, p := range networks {
		if !p.IsValid() || p.Addr().Is4In6() {
			errs = append(errs, &podweft.FieldError{
				Field: fmt.Sprintf("networks[%d]", i), Value: p, Problem: "is not a network", Remedy: "write one like 10.244.0.0/16",
			})
		}
	}
	return errors.Join(errs...)
}

// forwardingOf are the parameters that let packets of the networks' families be forwarded.
func forwardingOf(networks []netip.Prefix) (keys []string) {
	for _, p := range networks {
		key := "net/ipv6/conf/all/forwarding"
		if p.Addr().Is4() {
			key = "net/ipv4/ip_forward"
		}
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}
