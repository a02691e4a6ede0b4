package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/e2e/cluster"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ipam/block/blocktest"
	"github.com/podweft/podweft/kube"
)

// TestBlockStore is about the store of blocks in Kubernetes. All of it shares an API server, and begins without blocks.
func TestBlockStore(t *testing.T) {
	c := cluster.Start(t, nil)
	apply(t, c, kube.BlockDefinition())
	s := newBlockStore(t, c.Admin())
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if _, err := s.Blocks(t.Context(), everything); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("blocks are not served: %v", err)
		}
	}
	for _, tt := range []struct {
		name string
		test func(*testing.T, *cluster.Cluster)
	}{
		{"promises", blockPromises},
		{"rights", blockRights},
		{"makers that died", blockMakersThatDied},
		{"hostile blocks", hostileBlocks},
		{"API server away", blocksServerAway},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, c) })
	}
}

var everything = netip.MustParsePrefix("0.0.0.0/0")

// newBlockStore returns a BlockStore that ends with the test.
func newBlockStore(t *testing.T, client *rest.Config) *kube.BlockStore {
	t.Helper()
	s, err := kube.NewBlockStore(kube.BlockConfig{Client: client})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// blockObjects is how a person with kubectl reaches them.
func blockObjects(t *testing.T, c *cluster.Cluster) dynamic.ResourceInterface {
	t.Helper()
	client, err := dynamic.NewForConfig(c.Admin())
	require.NoError(t, err)
	return client.Resource(schema.GroupVersionResource{Group: "podweft.github.io", Version: "v1alpha1", Resource: "blocks"})
}

func deleteBlocks(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	require.NoError(t, blockObjects(t, c).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
}

func blockClaimer(t *testing.T, s block.Store, node, pool string) *block.Claimer {
	t.Helper()
	c, err := block.New(block.Config{Store: s, Node: node, Pools: []block.Pool{{Prefix: netip.MustParsePrefix(pool)}}})
	require.NoError(t, err)
	return c
}

func claimBlock(t *testing.T, c *block.Claimer) block.Share {
	t.Helper()
	share, err := c.Claim(t.Context(), netip.Addr{})
	require.NoError(t, err)
	return share
}

// blockPromises: the store keeps all of a block.Store's.
func blockPromises(t *testing.T, c *cluster.Cluster) {
	blocktest.Run(t, blocktest.Config{
		New: func(t *testing.T) block.Store {
			deleteBlocks(t, c)
			return newBlockStore(t, c.Admin())
		},
		Another:  func(t *testing.T, _ block.Store) block.Store { return newBlockStore(t, c.Admin()) },
		Patience: patience,
	})
}

// blockRights: those that the package's comment names are enough, and without them it is said what is missing.
func blockRights(t *testing.T, c *cluster.Cluster) {
	deleteBlocks(t, c)
	account := c.AddAccount("kube-system", "podweft-blocks")
	token := c.Token("kube-system", account)
	nobody := newBlockStore(t, c.As(token))
	_, err := nobody.Blocks(t.Context(), everything)
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, `cannot list resource "blocks"`)
	require.True(t, apierrors.IsForbidden(nobody.Watch(t.Context(), func() {})))

	apply(t, c, `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: podweft-blocks}, rules: [
		{apiGroups: [podweft.github.io], resources: [blocks], verbs: [list, watch, create, update, delete]}]}`)
	apply(t, c, `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: podweft-blocks},
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: podweft-blocks},
		subjects: [{kind: ServiceAccount, name: podweft-blocks, namespace: kube-system}]}`)
	s := newBlockStore(t, c.As(token))
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // the API server learns of rights by and by
		if _, err := s.Blocks(t.Context(), everything); err == nil {
			break
		}
		require.True(t, time.Now().Before(deadline), "no rights")
	}
	claimer := blockClaimer(t, s, "node-1", "10.244.0.0/24")
	share := claimBlock(t, claimer)
	require.NoError(t, claimer.Return(t.Context(), share.Prefix))
	claimBlock(t, claimer)
	freed := 0
	for range 2 {
		shares, err := block.Collect(t.Context(), s, 0, func(_ context.Context, nodes []string) ([]string, error) { return nodes, nil })
		require.NoError(t, err)
		freed += len(shares)
	}
	assert.Equal(t, 1, freed)
}

// blockMakersThatDied: a block that was never settled is shown to nobody, and goes when somebody needs its place.
func blockMakersThatDied(t *testing.T, c *cluster.Cluster) {
	deleteBlocks(t, c)
	s := newBlockStore(t, c.Admin())
	for prefix, name := range map[string]string{"10.244.0.0/25": "10.244.0.0-25", "10.244.0.128/26": "10.244.0.128-26"} {
		o := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "podweft.github.io/v1alpha1", "kind": "Block", "metadata": map[string]any{"name": name},
			"spec": map[string]any{"prefix": prefix, "node": "dead", "shares": []any{map[string]any{"prefix": prefix, "node": "dead"}}},
		}}
		_, err := blockObjects(t, c).Create(t.Context(), o, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	blocks, err := s.Blocks(t.Context(), everything)
	require.NoError(t, err)
	require.Empty(t, blocks)
	begun := time.Now()
	claimer := blockClaimer(t, s, "node-1", "10.244.0.0/24")
	got := map[netip.Prefix]bool{}
	for range 4 {
		got[claimBlock(t, claimer).Prefix] = true
	}
	assert.Len(t, got, 4)
	assert.Greater(t, time.Since(begun), 5*time.Second, "makers have time to settle")
	_, err = claimer.Claim(t.Context(), netip.Addr{})
	require.ErrorIs(t, err, block.ErrExhausted)
}

// hostileBlocks: what somebody wrote by hand and makes no sense is an error that names it, whoever else is fine.
func hostileBlocks(t *testing.T, c *cluster.Cluster) {
	deleteBlocks(t, c)
	s := newBlockStore(t, c.Admin())
	claimer := blockClaimer(t, s, "node-1", "10.244.0.0/24")
	claimBlock(t, claimer)
	for i, spec := range []map[string]any{
		{"prefix": "10.244.0.0/26", "shares": []any{}},
		{"prefix": "10.244.0.1/26", "shares": []any{}, "settled": true},
		{"prefix": "10.244.9.0/26", "shares": []any{map[string]any{"prefix": "10.9.9.0/29", "node": "a"}}},
	} {
		name := fmt.Sprint("bad-", i)
		o := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "podweft.github.io/v1alpha1", "kind": "Block", "metadata": map[string]any{"name": name}, "spec": spec,
		}}
		_, err := blockObjects(t, c).Create(t.Context(), o, metav1.CreateOptions{})
		require.NoError(t, err)
		_, err = claimer.Claim(t.Context(), netip.Addr{})
		require.ErrorIs(t, err, podweft.ErrInvalid)
		require.ErrorContains(t, err, "blocks/"+name)
		require.NoError(t, blockObjects(t, c).Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "podweft.github.io/v1alpha1", "kind": "Block", "metadata": map[string]any{"name": "none"},
		"spec": map[string]any{"prefix": "everywhere", "shares": []any{}},
	}}
	_, err := blockObjects(t, c).Create(t.Context(), o, metav1.CreateOptions{})
	require.True(t, apierrors.IsInvalid(err), "the cluster itself refuses what is no prefix: %v", err)
	claimBlock(t, claimer)
}

// blocksServerAway: a watch outlives its API server.
func blocksServerAway(t *testing.T, c *cluster.Cluster) {
	deleteBlocks(t, c)
	s := newBlockStore(t, c.Admin())
	hints, ended := make(chan struct{}, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		ended <- s.Watch(ctx, func() {
			select {
			case hints <- struct{}{}:
			default:
			}
		})
	}()
	until := func(what string, blocks int) {
		t.Helper()
		timeout := time.After(patience)
		for {
			select {
			case <-hints:
			case err := <-ended:
				t.Fatalf("the watch ended before %s: %v", what, err)
			case <-timeout:
				t.Fatalf("no hint of %s", what)
			}
			now, err := s.Blocks(t.Context(), everything)
			if err == nil && len(now) == blocks {
				return
			}
		}
	}
	until("its beginning", 0)
	claimer := blockClaimer(t, s, "node-1", "10.244.0.0/24")
	claimBlock(t, claimer)
	until("a block", 1)
	c.StopServer()
	_, err := claimer.Claim(t.Context(), netip.Addr{})
	require.Error(t, err)
	require.NotErrorIs(t, err, block.ErrExhausted, "nobody knows")
	c.StartServer()
	claimBlock(t, claimer)
	until("what came afterwards", 2)
	cancel()
	require.NoError(t, <-ended)
}
