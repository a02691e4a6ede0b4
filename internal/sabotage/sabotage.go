// Package sabotage is what other programs and bad luck do to the kernel's tables, for the tests of drivers that have to
// survive it: a stranger who takes over a nexthop object, a storm of routes, notifications that get lost, an agent that is killed.
// With it come the means to run a driver meanwhile, and to see what is left and what was lost.
//
// It breaks nothing that a netlink library breaks by one call; tests do that themselves.
package sabotage

import (
	"context"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/testnet"
)

// Deaf is a driver that hears nothing of what happens while it is locked: the first hint then waits, and the others with it.
type Deaf[S any] struct {
	podweft.Driver[S]
	sync.Mutex
}

// Watch implements [podweft.Driver].
func (d *Deaf[S]) Watch(ctx context.Context, changed func()) error {
	return d.Driver.Watch(ctx, func() {
		d.Lock()
		defer d.Unlock()
		changed()
	})
}

// Run keeps the driver at spec until it is stopped, at the test's end if not before. When it returns, the first pass has
// ended; what failed in it is in the loop's Status.
func Run[S any](t testing.TB, d podweft.Driver[S], spec S) (loop *podweft.Loop[S], stop func()) {
	t.Helper()
	loop = podweft.NewLoop(d, podweft.LoopConfig{})
	return loop, RunLoop(t, loop, spec)
}

// Keep is Run for a driver that is never stopped before.
func Keep[S any](t testing.TB, d podweft.Driver[S], spec S) *podweft.Loop[S] {
	t.Helper()
	loop, _ := Run(t, d, spec)
	return loop
}

// RunLoop is Run for a loop that is not like the others.
func RunLoop[S any](t testing.TB, loop *podweft.Loop[S], spec S) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	_ = loop.Wait(t.Context(), loop.Set(spec))
	return stop
}

// Settle waits until the loop has seen the echoes of its own writes.
func Settle[S any](t testing.TB, loop *podweft.Loop[S]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	passes := loop.Status().Passes
	for {
		select {
		case <-time.After(300 * time.Millisecond): // on a busy machine they come late
		case <-ctx.Done():
			t.Fatalf("the loop does not come to rest: %d passes", passes)
		}
		before := passes
		if passes = loop.Status().Passes; passes == before {
			return
		}
	}
}

// RequireStill does something to a loop that is at rest, and requires that a count stays as it is meanwhile. On a busy machine the
// last events of links may come late, and echoes of a write after the next one, and both count; but they come now and then, and what
// is done costs something each time. So it is done up to ten times.
func RequireStill[S any](t testing.TB, loop *podweft.Loop[S], count func() uint64, do func()) {
	t.Helper()
	var before, after uint64
	for range 10 {
		Settle(t, loop)
		before = count()
		do()
		Settle(t, loop)
		if after = count(); after == before {
			return
		}
	}
	t.Errorf("it does not stay at %d: %d", before, after)
}

// Dial opens netlink in the node, as another program does.
func Dial(t testing.TB, n *testnet.Node) *nl.Conn {
	t.Helper()
	conn, err := nl.Dial(n.NetNS())
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Do sends requests in the node, and requires that all succeed.
func Do(t testing.TB, n *testnet.Node, requests func(*nl.Batch)) {
	t.Helper()
	conn, err := nl.Dial(n.NetNS())
	must(t, err)
	defer conn.Close()
	var batch nl.Batch
	requests(&batch)
	for _, err := range conn.Do(t.Context(), &batch) {
		must(t, err)
	}
}

// Nexthops are all nexthop objects of the node.
func Nexthops(t testing.TB, n *testnet.Node) (all []nl.Nexthop) {
	t.Helper()
	must(t, Dial(t, n).Nexthops(t.Context(), func() { all = nil }, func(nh nl.Nexthop) { all = append(all, nh) }))
	return all
}

// RouteTo is what the node's main table has at p; the zero Route if there is nothing.
func RouteTo(t testing.TB, n *testnet.Node, p netip.Prefix) (found nl.Route) {
	t.Helper()
	must(t, Dial(t, n).Routes(t.Context(), func() { found = nl.Route{} }, func(r nl.Route) {
		if r.Prefix == p && r.Table == nl.TableMain {
			found = r
		}
	}))
	return found
}

// SeizeNexthop puts nh in place of the nexthop object with its id, whosever that is: `ip nexthop replace`.
func SeizeNexthop(t testing.TB, n *testnet.Node, nh nl.Nexthop) {
	t.Helper()
	const nhaID, nhaOIF, nhaGateway = 1, 5, 6 // linux/nexthop.h
	attrs := netlink.NewAttributeEncoder()
	attrs.Uint32(nhaID, nh.ID)
	attrs.Uint32(nhaOIF, uint32(nh.Link))
	attrs.Bytes(nhaGateway, nh.Gateway.AsSlice())
	encoded, err := attrs.Encode()
	must(t, err)
	family := byte(unix.AF_INET6)
	if nh.Gateway.Is4() {
		family = unix.AF_INET
	}
	var conn *netlink.Conn
	must(t, n.Do(func() (err error) {
		conn, err = netlink.Dial(unix.NETLINK_ROUTE, nil)
		return err
	}))
	defer conn.Close()
	_, err = conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_NEWNEXTHOP, Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Replace},
		Data:   append([]byte{family, 0, nh.Protocol, 0, 0, 0, 0, 0}, encoded...),
	})
	must(t, err)
}

// StormSize is how many routes make a storm that no socket's buffer holds.
func StormSize() int {
	if testing.Short() { // on an emulated processor they take long
		return 20_000
	}
	return 100_000
}

// Storm sends requests for foreign routes, numbers from to to, in a table that is nobody's.
func Storm(t testing.TB, n *testnet.Node, link, from, to int, request func(*nl.Batch, nl.Route)) {
	t.Helper()
	Do(t, n, func(b *nl.Batch) {
		b.Grow(to - from)
		for i := from; i < to; i++ {
			a := netip.AddrFrom4([4]byte{100, 64 + byte(i>>16), byte(i >> 8), byte(i)})
			request(b, nl.Route{
				RouteKey: nl.RouteKey{Table: 4242, Prefix: netip.PrefixFrom(a, 32)}, Protocol: unix.RTPROT_STATIC, Link: link,
			})
		}
	})
}

// LostMessages is how many the kernel could not put into the netlink sockets of the node.
func LostMessages(t testing.TB, n *testnet.Node) (lost int) {
	t.Helper()
	var table []byte
	must(t, n.Do(func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/netlink")
		return err
	}))
	for line := range strings.Lines(string(table)) {
		const protocol, drops = 1, 8 // columns: sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
		if column := strings.Fields(line); column[protocol] == strconv.Itoa(unix.NETLINK_ROUTE) {
			dropped, err := strconv.Atoi(column[drops])
			must(t, err)
			lost += dropped
		}
	}
	return lost
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
