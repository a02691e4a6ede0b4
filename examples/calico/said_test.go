package calico

import (
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podweft/podweft"
)

func kubeNode(annotations map[string]string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", Labels: map[string]string{"of": "kubernetes"}, Annotations: annotations}}
}

// TestAnnotations: what a node's Node in Kubernetes says goes before Calico's in a file, and a flag before both.
func TestAnnotations(t *testing.T) {
	file := filepath.Join(t.TempDir(), "calico.yaml")
	require.NoError(t, os.WriteFile(file, []byte(
		`{kind: Node, metadata: {name: node-1, labels: {of: calico}}, spec: {bgp: {asNumber: 65001, routeReflectorClusterID: 244.0.0.1}}}`), 0o600))
	whole := map[string]string{annotationAS: "1.10", annotationCluster: "244.0.0.2"}
	for name, tt := range map[string]struct {
		annotations map[string]string
		flags       []string
		as          uint32
		cluster, of string
	}{
		"none":        {nil, nil, 65001, "244.0.0.1", "kubernetes"},
		"annotations": {whole, nil, 1<<16 | 10, "244.0.0.2", "kubernetes"},
		"flags":       {whole, []string{"--as=65003", "--cluster-id=244.0.0.3", "--node-labels=of=flags"}, 65003, "244.0.0.3", "flags"},
	} {
		t.Run(name, func(t *testing.T) {
			o, _, err := ParseOptions(append(tt.flags,
				"--node-name=node-1", "--ipv4-pool-cidr=10.244.0.0/16", "--store-dir="+t.TempDir(), "--config="+file,
			), func(string) string { return "" }, io.Discard)
			require.NoError(t, err)
			o.inCluster, err = saidOf(kubeNode(tt.annotations))
			require.NoError(t, err)
			require.NoError(t, o.load())
			assert.Equal(t, tt.as, o.Config.BGP.AS)
			assert.Equal(t, netip.MustParseAddr(tt.cluster), o.Config.BGP.ClusterID)
			assert.Equal(t, map[string]string{"of": tt.of}, o.Config.Labels)
		})
	}
}

// TestAnnotationsSayWhatIsWrong: all of it, each by its name.
func TestAnnotationsSayWhatIsWrong(t *testing.T) {
	_, err := saidOf(kubeNode(map[string]string{annotationAS: "1.65536", annotationCluster: "0.0.0.0"}))
	require.ErrorIs(t, err, podweft.ErrInvalid)
	require.EqualError(t, err, "Node node-1: projectcalico.org/ASNumber: 1.65536 is no AS number: write one like 64512\n"+
		`Node node-1: projectcalico.org/RouteReflectorClusterID: "0.0.0.0" is no cluster ID: write one like 244.0.0.1`)
}
