package world

import (
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/scenario"
)

// Try sends every cell's packet and requires that those which must come about arrive, and that of the others each has been counted
// where it was dropped. A packet may get lost before any rule sees it (a link that is new, a full backlog on a busy machine), so
// all are sent again while the count is short.
func (w *World) Try(cells []scenario.Cell) {
	w.T.Helper()
	before, want := w.Denied(), uint64(0)
	for _, c := range cells {
		if c.Want == policy.Denied {
			want++
		}
	}
	begin := time.Now()
	for sent := uint64(1); ; sent++ {
		w.Send(cells)
		counted := w.Denied() - before
		for again := time.Now(); counted < want && time.Since(again) < time.Second; counted = w.Denied() - before {
			pause(w.T)
		}
		w.arrive()
		if w.T.Failed() {
			return
		}
		if counted >= want {
			if counted > sent*want {
				w.T.Errorf("%d packets were dropped, of %d sent %d times", counted, want, sent)
			}
			return
		}
		if time.Since(begin) > Patience {
			w.T.Fatalf("%d of %d packets were dropped where that is counted", counted, want)
		}
	}
}

// Send sends every cell's packet and waits for those that must arrive.
func (w *World) Send(cells []scenario.Cell) {
	w.T.Helper()
	w.flying = map[uint32]scenario.Cell{}
	for _, m := range w.Machines() {
		m.Drain(func([]byte) {})
	}
	for _, n := range w.Nodes {
		n.Forget(w.T)
	}
	for _, c := range cells {
		id := w.Number()
		w.flying[id] = c
		w.Owner(c.Packet.Src).Transmit(w.T, Datagram(c.Packet, id))
	}
	begin := time.Now()
	for again := begin; ; pause(w.T) {
		missing := w.arrive()
		if len(missing) == 0 {
			return
		}
		if time.Since(begin) > Patience {
			for _, c := range missing {
				w.T.Errorf("did not arrive: %s (%s)", c.Text, c.Packet)
			}
			return
		}
		if time.Since(again) > 50*time.Millisecond { // a link that is new may lose what comes first
			again = time.Now()
			for id, c := range missing {
				w.Owner(c.Packet.Src).Transmit(w.T, Datagram(c.Packet, id))
			}
		}
	}
}

// Round sends a packet of each connection, half of which are denied, and waits for the others, which must arrive all the same while
// filters change. They have one destination.
func (w *World) Round(list []scenario.Cell) {
	w.T.Helper()
	waiting := map[uint32]bool{}
	for _, c := range list {
		id := w.Number()
		waiting[id] = c.Want == policy.Allowed
		w.Owner(c.Packet.Src).Transmit(w.T, Datagram(c.Packet, id))
	}
	for begin := time.Now(); len(waiting) > len(list)/2; pause(w.T) {
		w.Owner(list[0].Packet.Dst).Drain(func(b []byte) {
			if id, _, ok := Received(b); ok {
				if !waiting[id] {
					w.T.Error("a packet arrived that is always denied")
				}
				delete(waiting, id)
			}
		})
		if time.Since(begin) > Patience {
			w.T.Fatal("a packet did not arrive that is always allowed")
		}
	}
}

// pause lets others work.
func pause(t testing.TB) {
	select {
	case <-t.Context().Done():
	case <-time.After(time.Millisecond):
	}
}

// Number is one that no packet has had.
func (w *World) Number() uint32 {
	w.sent++
	return w.sent
}

// Owner is the machine that has the address since the last Settle.
func (w *World) Owner(a netip.Addr) *Machine { return w.owners[a] }

// arrive reads what has come in and returns what must still come.
func (w *World) arrive() (missing map[uint32]scenario.Cell) {
	w.T.Helper()
	for _, m := range w.Machines() {
		m.Drain(func(b []byte) {
			id, dst, ok := Received(b)
			c, known := w.flying[id]
			if !ok || !known || w.owners[dst] != m {
				return // forwarded, or not ours
			}
			delete(w.flying, id)
			if c.Want == policy.Denied {
				w.T.Errorf("arrived, and must not: %s (%s)", c.Text, c.Packet)
			}
		})
	}
	missing = maps.Clone(w.flying)
	maps.DeleteFunc(missing, func(_ uint32, c scenario.Cell) bool { return c.Want == policy.Denied })
	return missing
}

// Machines are all that there are: nodes, pods, and everybody else.
func (w *World) Machines() (list []*Machine) {
	for _, n := range w.Nodes {
		list = append(list, n.Machine)
	}
	for _, m := range w.machines {
		list = append(list, m)
	}
	return append(list, w.outside)
}

// Denied is what all nodes have dropped.
func (w *World) Denied() (packets uint64) {
	w.T.Helper()
	for _, n := range w.Nodes {
		packets += n.Keeper.Denied(w.T)
	}
	return packets
}
