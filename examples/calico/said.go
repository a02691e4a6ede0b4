package calico

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/podweft/podweft"
)

// said is what somebody says of this node alone. What is zero is not said.
type said struct {
	labels  map[string]string
	as      uint32
	cluster netip.Addr // makes it a route reflector
}

// The annotations by which Calico is told of a node where Kubernetes is the store, and there is no Node of Calico's.
const (
	annotationAS      = "projectcalico.org/ASNumber"
	annotationCluster = "projectcalico.org/RouteReflectorClusterID"
)

// saidOf is what a Node of Kubernetes says.
func saidOf(n *corev1.Node) (s said, err error) {
	s.labels = n.Labels
	at := func(annotation string) string { return fmt.Sprintf("Node %s: %s", n.Name, annotation) }
	var as asNumber
	if text := n.Annotations[annotationAS]; text != "" {
		if wrong, is := errors.AsType[*podweft.FieldError](as.UnmarshalJSON([]byte(strconv.Quote(text)))); is {
			wrong.Field = at(annotationAS)
			err = wrong
		}
	}
	s.as = uint32(as)
	var failed error
	s.cluster, failed = clusterID(at(annotationCluster), n.Annotations[annotationCluster])
	return s, errors.Join(err, failed)
}

// clusterID reads a route reflector's: a number in the form of an address (RFC 4456). No text is none.
func clusterID(field, text string) (id netip.Addr, err error) {
	if text == "" {
		return id, nil
	}
	if id, err = netip.ParseAddr(text); err != nil || !id.Is4() || id.IsUnspecified() {
		return netip.Addr{}, &podweft.FieldError{Field: field, Value: fmt.Sprintf("%q", text), Problem: "is no cluster ID", Remedy: "write one like 244.0.0.1"}
	}
	return id, nil
}
