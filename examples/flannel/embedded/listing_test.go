package embedded_test

import (
	"bufio"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestListingAsksSeldom: what a node asks of etcd to know all leases, and to hear of their changes, is a request for every 5,000 of them
// and a watch. None of them costs one of its own.
func TestListingAsksSeldom(t *testing.T) {
	const leases, pages = 5001, 2
	url := startEmbedded(t)
	p := place{server: url, prefix: prefix(t), operator: operator(t, url)}
	alive, err := p.operator.Grant(t.Context(), 24*60*60)
	require.NoError(t, err)
	for i := 0; i < leases; i += 100 { // 128 operations are the most
		var puts []clientv3.Op
		for n := i; n < min(i+100, leases); n++ {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("%s/subnets/10.%d.%d.0-24", p.prefix, n>>8, n&0xff),
				fmt.Sprintf(`{"PublicIP":"172.16.%d.%d","PublicIPv6":null,"BackendType":"host-gw"}`, n>>8, n&0xff), clientv3.WithLease(alive.ID)))
		}
		_, err := p.operator.Txn(t.Context()).Then(puts...).Commit()
		require.NoError(t, err)
	}
	p.configure(t, parse(t, `{"Network":"10.0.0.0/8","SubnetMin":"10.0.0.0"}`))
	s := p.store(t, url)
	before := requests(t, url)
	seen := 0
	for snap, err := range s.Watch(t.Context()) {
		require.NoError(t, err)
		if seen++; seen == 1 {
			require.Len(t, snap.Leases, leases)
			_, err := p.operator.Delete(t.Context(), p.prefix+"/subnets/"+snap.Leases[0].Key) // a request of ours
			require.NoError(t, err)
			continue
		}
		assert.Len(t, snap.Leases, leases-1, "the watch goes on from the listing")
		break
	}
	asked := requests(t, url) - before - 1
	t.Logf("%d requests", asked)
	assert.GreaterOrEqual(t, asked, pages+1, "requests are not counted")
	assert.LessOrEqual(t, asked, pages+2)
}

// requests is how many etcd has had.
func requests(t *testing.T, url string) (n int) {
	t.Helper()
	r, err := http.Get(url + "/metrics")
	require.NoError(t, err)
	defer r.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "grpc_server_started_total{") {
			fields := strings.Fields(lines.Text())
			value, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			require.NoError(t, err)
			n += int(value)
		}
	}
	return n
}
