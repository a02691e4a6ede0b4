package calico_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/examples/calico"
	"github.com/podweft/podweft/testnet"
)

// teams are two namespaces, of which one has a team, and pods in each; the third nobody has told of.
const teams = `apiVersion: v1
kind: Namespace
metadata: {name: red, labels: {team: red}}
---
apiVersion: v1
kind: Namespace
metadata: {name: plain}
`

// TestNamespaces: which pool serves a pod follows from its namespace's labels, on a node that has blocks of both; pods of all namespaces
// reach each other.
func TestNamespaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	n := w.Nodes()[0]
	dir := t.TempDir()
	tell := func(namespaces string, pods ...string) {
		var b strings.Builder
		b.WriteString(namespaces)
		for _, p := range pods {
			namespace, name, _ := strings.Cut(p, "/")
			fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s}\n", name, namespace)
		}
		draft := filepath.Join(dir, ".cluster.yaml")
		require.NoError(t, os.WriteFile(draft, []byte(b.String()), 0o600))
		require.NoError(t, os.Rename(draft, filepath.Join(dir, "cluster.yaml")))
	}
	tell(teams, "red/r1", "red/r2", "plain/p1", "plain/p2")
	selects := func(text string) (p calico.Pool) {
		var err error
		p.Namespaces, err = calico.ParseSelector(text)
		require.NoError(t, err)
		p.VXLAN = calico.Always
		return p
	}
	red, others := selects("team == 'red'"), selects("!has(team)")
	red.Prefix, others.Prefix = netip.MustParsePrefix("10.245.0.0/24"), netip.MustParsePrefix("10.244.0.0/24")
	six := calico.Pool{Prefix: netip.MustParsePrefix("fd00:244::/64"), VXLAN: calico.Always}
	cfg := w.config(t, n, []calico.Pool{red, others, six})
	cfg.Policies = calico.PolicyFiles{dir}
	agent, _ := start(t, cfg)

	pods := map[string]*pod{}
	for _, of := range []string{"red/r1", "plain/p1", "red/r2", "plain/p2"} {
		namespace, name, _ := strings.Cut(of, "/")
		p := w.addIn(t, n, namespace, name)
		want := others.Prefix
		if namespace == "red" {
			want = red.Prefix
		}
		require.Len(t, p.addrs, 2)
		assert.True(t, want.Contains(p.addrs[0]), "%s has %s", of, p.addrs)
		assert.True(t, six.Prefix.Contains(p.addrs[1]), "%s has %s", of, p.addrs)
		pods[name] = p
	}
	reaches(t, pods["r1"].Node, pods["p1"].addrs...)
	reaches(t, pods["p2"].Node, pods["r2"].addrs...)
	waitFor(t, agent, "blocks of all pools", func(s calico.Status) bool { return len(s.Blocks) == 3 })

	p := &pod{Node: testnet.NewNode(t, "late"), namespace: "late", host: n, dir: filepath.Join(w.dir, n.Name)}
	out, code := p.call(t, "ADD")
	assert.NotZero(t, code)
	assert.Contains(t, out, fmt.Sprintf(`"code": %d`, cniplugin.CodeTryAgain), out)
	assert.Contains(t, out, "nobody has told of the namespace late yet")
	tell(teams+"---\napiVersion: v1\nkind: Namespace\nmetadata: {name: late, labels: {team: blue}}\n", "late/late", "red/r1", "red/r2", "plain/p1", "plain/p2")
	eventually(t, func() error {
		if out, code = p.call(t, "ADD"); strings.Contains(out, "no pool is for this owner") {
			return nil
		}
		return fmt.Errorf("%d: %s", code, out)
	})
	assert.Contains(t, out, fmt.Sprintf(`"code": %d`, cniplugin.CodeExhausted))
}
