package etcd

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"pgregory.net/rapid"
)

// TestSnapshotsOfChangesAreSnapshotsOfTheWhole: a snapshot that was changed with its entries, event by event, is the one that a look at
// all of them makes, and what was shown before stays as it was.
func TestSnapshotsOfChangesAreSnapshotsOfTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		st := &state{keys: keys{DefaultPrefix}}
		st.settle()
		for revision := range int64(rapid.IntRange(1, 12).Draw(t, "steps")) {
			var events []*clientv3.Event
			for range rapid.IntRange(1, 3).Draw(t, "events") {
				events = append(events, anyEvent(t, revision+1))
			}
			before := st.snapshot()
			leases, problems := fmt.Sprint(before.Leases), fmt.Sprint(before.Problems)
			next := st.clone()
			next.apply(events)
			next.settle()
			whole := *next
			whole.shown = whole.look()
			require.Equal(t, whole.snapshot(), next.snapshot())
			require.Equal(t, leases, fmt.Sprint(before.Leases))
			require.Equal(t, problems, fmt.Sprint(before.Problems))
			st = next
		}
	})
}

// anyEvent is one of a few keys' coming and going: leases, reservations, permanent leases, and what makes no sense.
func anyEvent(t *rapid.T, revision int64) *clientv3.Event {
	key := rapid.SampledFrom([]string{"10.0.1.0-24", "10.0.2.0-24", "leased/10.0.2.0-24", "10.0.0.0-16", "10.0.3.0-24&fd00::-64", "hello"}).Draw(t, "key")
	kv := &mvccpb.KeyValue{Key: []byte(keys{DefaultPrefix}.subnet(key)), ModRevision: revision}
	if rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
		return &clientv3.Event{Type: clientv3.EventTypeDelete, Kv: kv}
	}
	kv.Value = []byte(rapid.SampledFrom([]string{
		`{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan"}`,
		`{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","Node":"a"}`,
		`{"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"vxlan","Node":"b"}`,
		`{"PublicIP":"192.0.2.2","PublicIPv6":"192.0.2.2","Node":"b"}`, `{"PublicIP":"0.0.0.0"}`, `{`,
	}).Draw(t, "value"))
	kv.Lease = rapid.SampledFrom([]int64{7, 7, 7, 0}).Draw(t, "lease")
	return &clientv3.Event{Type: clientv3.EventTypePut, Kv: kv}
}
