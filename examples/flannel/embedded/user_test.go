package embedded_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/podweft/podweft/examples/flannel/embedded"
	"github.com/podweft/podweft/examples/internal/loopback"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/etcd"
)

// TestUser: an etcd that wants names and passwords serves who has them, with no more rights than to what stands below the prefix; also
// when it has started anew, and has forgotten who was let in.
func TestUser(t *testing.T) {
	cfg := embedded.Config{Dir: t.TempDir(), Client: loopback.FreeURL(t)}
	server := startMember(t, cfg)
	p := place{server: cfg.Client, prefix: "/user", operator: operator(t, cfg.Client)}
	p.configure(t, parse(t, sixteen))
	done := func(_ any, err error) {
		t.Helper()
		require.NoError(t, err)
	}
	ctx, op := t.Context(), p.operator
	done(op.RoleAdd(ctx, "root"))
	done(op.UserAdd(ctx, "root", "of all evil"))
	done(op.UserGrantRole(ctx, "root", "root"))
	done(op.RoleAdd(ctx, "nodes"))
	done(op.RoleGrantPermission(ctx, "nodes", p.prefix+"/", clientv3.GetPrefixRangeEnd(p.prefix+"/"), clientv3.PermissionType(clientv3.PermReadWrite)))
	done(op.UserAdd(ctx, "podweft", "secret"))
	done(op.UserGrantRole(ctx, "podweft", "nodes"))
	done(op.AuthEnable(ctx))

	_, err := p.store(t, cfg.Client).Acquire(ctx, claim(1))
	require.ErrorContains(t, err, "user name is empty")
	with := func(password string) (*etcd.Store, error) {
		return etcd.New(etcd.Config{Endpoints: []string{cfg.Client}, Prefix: p.prefix, Username: "podweft", Password: password})
	}
	_, err = with("guess")
	require.ErrorContains(t, err, "invalid user ID or password")
	s, err := with("secret")
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	require.NoError(t, s.Reserve(ctx, subnet.Prefixes{V4: netip.MustParsePrefix("10.244.7.0/24")}, "node-7"))
	l, err := s.Acquire(ctx, claim(1))
	require.NoError(t, err)
	seen := follow(t, s)
	seen.until("the lease", has("node-1"))

	server.kill()
	server = startMember(t, cfg)
	defer server.kill()
	deadline := time.Now().Add(patience)
	for _, err = s.Acquire(ctx, claim(2)); err != nil; _, err = s.Acquire(ctx, claim(2)) {
		require.True(t, time.Now().Before(deadline), "no claim: %v", err)
		time.Sleep(20 * time.Millisecond)
	}
	seen.until("a lease from after the return", has("node-2"))
	l.Underlay = claim(3).Underlay
	l, err = s.Update(ctx, l)
	require.NoError(t, err)
	l, err = s.Renew(ctx, l)
	require.NoError(t, err)
	require.NoError(t, s.Release(ctx, l))
	seen.until("that it is gone", func(snap *subnet.Snapshot) bool { return snap.Lease("node-1") == nil })
}
