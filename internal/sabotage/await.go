package sabotage

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/testnet"
)

// Patience is how long to wait for what takes milliseconds. The kernel has one lock for the links of all namespaces, which tests of
// other packages may hold for long; and a processor may be emulated.
const Patience = 20 * time.Second

// RequireRepaired waits until the driver has nothing to do for spec but what cannot be done.
func RequireRepaired[S any](t testing.TB, d podweft.Driver[S], spec S) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	for {
		plan, err := d.Plan(t.Context(), spec)
		todo := slices.DeleteFunc(slices.Clone(plan), func(c podweft.Change) bool { return c.Err != nil })
		if err == nil && len(todo) == 0 {
			return
		}
		select {
		case <-time.After(time.Millisecond): // a plan is work, which a loop has to do too
		case <-ctx.Done():
			t.Fatalf("not repaired: %v\n%s", err, plan)
		}
	}
}

// Reach pings from one node until an answer comes: the kernel makes an IPv6 address its own in a work queue, some time after it has
// accepted it (addrconf_dad_work in net/ipv6/addrconf.c). It waits for each the longer the more pings were lost.
func Reach(ctx context.Context, n *testnet.Node, to netip.Addr, e testnet.Echo) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	for wait := 100 * time.Millisecond; ; wait *= 2 {
		try, cancel := context.WithTimeout(ctx, wait)
		_, err := n.Echo(try, to, e)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}
