package kube_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podweft/podweft/kube"
	"github.com/podweft/podweft/subnet"
)

// A cluster in which flannel runs: its leases are read, and one family's address of a node is changed.
func Example() {
	var annotations kube.Annotations // flannel's
	flannels := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-2", ResourceVersion: "1204", Annotations: map[string]string{
			"flannel.alpha.coreos.com/kube-subnet-manager": "true",
			"flannel.alpha.coreos.com/backend-type":        "vxlan",
			"flannel.alpha.coreos.com/backend-data":        `{"VNI":1,"VtepMAC":"0e:1d:2c:3b:4a:59"}`,
			"flannel.alpha.coreos.com/public-ip":           "192.0.2.2",
		}},
		Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.2.0/24"}},
	}
	broken := flannels.DeepCopy()
	broken.Name, broken.Annotations["flannel.alpha.coreos.com/public-ip"] = "node-3", "192.0.2"
	broken.Spec.PodCIDRs = []string{"10.244.3.0/24"}
	fresh := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-4"}} // no agent runs there yet

	network := &subnet.Network{V4: subnet.Range{Network: netip.MustParsePrefix("10.244.0.0/16")}}
	snapshot := annotations.Snapshot(slices.Values([]*corev1.Node{fresh, broken, flannels}), network, 1204)
	for _, l := range snapshot.Leases {
		fmt.Println(l)
	}
	for _, p := range snapshot.Problems {
		fmt.Println(p)
	}

	moved := *snapshot.Lease("node-2")
	moved.Underlay.V4 = netip.MustParseAddr("192.0.2.22")
	patch, err := annotations.Patch(flannels, &moved)
	if err != nil {
		fmt.Println(err)
		return
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": patch}})
	fmt.Println(string(body), err)
	// Output:
	// 10.244.2.0/24 of node-2 via 192.0.2.2
	// 10.244.3.0/24 of node-3
	// lease node-3 of node-3: flannel.alpha.coreos.com/public-ip: "192.0.2" is not an IPv4 address: restart the node's agent, which writes it or copies it from public-ip-overwrite
	// {"metadata":{"annotations":{"flannel.alpha.coreos.com/public-ip":"192.0.2.22"}}} <nil>
}
