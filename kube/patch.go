package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

// Patch returns which annotations of the node have to change, and to what, for it to show the lease; nil takes one away.
// Empty means that the node shows it already. A change of one family alone is a change. Only what a lease says is touched,
// neither what operators write nor anybody else's; a nil lease takes all of it away.
//
// Where the operator has written public-ip-overwrite, that is what peers are told, in place of the lease's address of that
// family. The lease's Prefixes are not written: spec.podCIDRs is the cluster's.
//
// The result is the value of metadata.annotations in a JSON or strategic merge patch. flannel sends it to the node's status
// subresource, for which the right to patch nodes/status is enough.
//
// The error joins a [*podweft.FieldError] for each value that cannot be written: data that is not JSON, an address of the wrong
// family, an overwrite that is no address. There is no patch then.
func (a Annotations) Patch(node *corev1.Node, lease *subnet.Lease) (map[string]*string, error) {
	want, err := a.encode(lease, node.Annotations)
	if err != nil {
		return nil, err
	}
	patch := map[string]*string{}
	for _, key := range a.written() {
		have, has := node.Annotations[key]
		text, wanted := want[key]
		switch {
		case wanted && (!has || have != text):
			patch[key] = &text
		case !wanted && has:
			patch[key] = nil
		}
	}
	return patch, nil
}

// written is every annotation that a lease may have.
func (a Annotations) written() []string {
	keys := []string{a.key(managed), a.key(backendType)}
	for _, f := range families {
		keys = append(keys, a.key(names[f].data), a.key(names[f].publicIP))
	}
	return keys
}

// encode returns the lease's annotations, on a node that has these already.
func (a Annotations) encode(l *subnet.Lease, have map[string]string) (map[string]string, error) {
	if l == nil {
		return nil, nil
	}
	if err := l.Validate(); err != nil {
		return nil, err
	}
	want := map[string]string{a.key(managed): "true", a.key(backendType): l.Backend}
	var errs []error
	underlay := [...]netip.Addr{v4: l.Underlay.V4, v6: l.Underlay.V6}
	data := [...]json.RawMessage{v4: l.Data.V4, v6: l.Data.V6}
	for _, f := range families {
		told, err := a.told(f, underlay[f], have)
		if err != nil {
			errs = append(errs, err)
		}
		if told.IsValid() {
			want[a.key(names[f].publicIP)] = told.String()
		}
		if told.IsValid() || len(data[f]) > 0 {
			want[a.key(names[f].data)] = dataText(data[f])
		}
	}
	return want, errors.Join(errs...)
}

// told is the address that peers are told: the operator's, if there is one, in place of the node's own.
func (a Annotations) told(f family, own netip.Addr, have map[string]string) (netip.Addr, error) {
	if own == (netip.Addr{}) {
		return own, nil
	}
	if !f.has(own) || own.IsUnspecified() {
		problem := "is not an " + f.String() + " address that peers can send to"
		return netip.Addr{}, &podweft.FieldError{Field: a.key(names[f].publicIP), Value: own, Problem: problem}
	}
	key := a.key(names[f].overwrite)
	told, err := f.parseAddr(key, have[key], "write where peers reach the node, such as "+f.example()+", or take the annotation away")
	if err != nil || told.IsValid() {
		return told, err
	}
	return own, nil
}

// dataText is what the backend publishes as flannel writes it: null when that is nothing, and without white space, for a
// flannel that is started on this node again looks for its VTEP's MAC by splitting the text at `:"`.
func dataText(raw json.RawMessage) string {
	if len(raw) == 0 {
		return "null"
	}
	var b bytes.Buffer
	_ = json.Compact(&b, raw) // it is JSON: the lease has been validated
	return b.String()
}
