package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

// ErrNotManaged: no agent has said that it runs the node's pod network, with the annotation kube-subnet-manager. Such a node
// has no lease, and nothing is wrong with that: it may run another network, or its agent has not started yet.
var ErrNotManaged = errors.New("no agent manages this node's pod network")

// Lease reads a node's lease. Its Key and its Node are the node's name, and its Revision is the node's resourceVersion: a
// number that grows with each change of the Node, whether it concerns the lease or not (0 where it is no number).
//
// The error joins a [*podweft.FieldError] for each value that makes no sense, which names the annotation. What is sound of the
// lease is returned beside it: one bad family does not cost a node the other. Only without a sound pod subnet is there no
// lease; nor is there one when the error is [ErrNotManaged]: the node is not for us.
//
// Whether the subnet lies in the Network and whether its peers can send to the address is for [subnet.Snapshot.Peers] to say.
func (a Annotations) Lease(node *corev1.Node) (*subnet.Lease, error) {
	l, errs := a.decode(node)
	return l, errors.Join(errs...)
}

// NodePublicIP reads which addresses an operator has chosen for the node's agent to publish, with node-public-ip and node-public-ipv6:
// those of an interface of the node, or of a NAT before it. The error joins a [*podweft.FieldError] for each that is no address of its family.
func (a Annotations) NodePublicIP(node *corev1.Node) (subnet.Addrs, error) {
	d := decoder{Annotations: a, from: node.Annotations}
	chosen := d.addrs(func(f family) (name, remedy string) {
		return names[f].nodePublicIP, "write one that peers send to, such as " + f.example()
	})
	return chosen, errors.Join(d.errs...)
}

func (a Annotations) decode(node *corev1.Node) (*subnet.Lease, []error) {
	if node.Annotations[a.key(managed)] != "true" {
		return nil, []error{fmt.Errorf("node %s: %w: its annotation %s is not \"true\"", node.Name, ErrNotManaged, a.key(managed))}
	}
	d := decoder{Annotations: a, from: node.Annotations}
	l := &subnet.Lease{
		Key:      node.Name,
		Node:     node.Name,
		Prefixes: d.prefixes(&node.Spec),
		Underlay: d.underlay(),
		Backend:  node.Annotations[a.key(backendType)],
		Data:     subnet.Data{V4: d.data(v4), V6: d.data(v6)},
		Revision: revision(node),
	}
	if l.Prefixes.IsZero() {
		return nil, d.errs
	}
	return l, d.errs
}

// revision is the node's resourceVersion. Clients may take it for a number since Kubernetes 1.35 (KEP-5504); with etcd and
// kine below the API server it always was one.
func revision(node *corev1.Node) uint64 {
	n, err := strconv.ParseUint(node.ResourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// decoder reads one value after the other and keeps the problems.
type decoder struct {
	Annotations
	from map[string]string
	errs []error
}

func (d *decoder) fail(field string, value any, problem, remedy string) {
	d.errs = append(d.errs, &podweft.FieldError{Field: field, Value: value, Problem: problem, Remedy: remedy})
}

// prefixes reads the pod subnets that the cluster gave to the node. Of two of one family the first counts: it is the one that
// the API server repeats in podCIDR.
func (d *decoder) prefixes(spec *corev1.NodeSpec) (p subnet.Prefixes) {
	field, cidrs := "spec.podCIDRs", spec.PodCIDRs
	if len(cidrs) == 0 && spec.PodCIDR != "" {
		field, cidrs = "spec.podCIDR", []string{spec.PodCIDR}
	}
	if len(cidrs) == 0 {
		d.fail(field, nil, "is missing", "let kube-controller-manager give out subnets (--allocate-node-cidrs, --cluster-cidr), or set it on the node")
	}
	for _, cidr := range cidrs {
		parsed, err := netip.ParsePrefix(cidr)
		f, into := v6, &p.V6
		if parsed.Addr().Is4() {
			f, into = v4, &p.V4
		}
		switch {
		case err != nil || !f.has(parsed.Addr()):
			d.fail(field, shown(cidr), "is not a subnet", `one reads like "10.244.3.0/24"; to change it, make the Node anew`)
		case into.IsValid():
			d.fail(field, shown(cidr), "is a second "+f.String()+" subnet", "a node has one of each family; to change it, make the Node anew")
		default:
			*into = parsed.Masked() // API servers before KEP-4858 let host bits pass, and flannel drops them
		}
	}
	return p
}

func (d *decoder) underlay() subnet.Addrs {
	return d.addrs(func(f family) (name, remedy string) {
		return names[f].publicIP, "restart the node's agent, which writes it or copies it from " + names[f].overwrite
	})
}

// addrs reads an address of each family, from the annotation that of names; remedy is for whoever wrote nonsense there.
func (d *decoder) addrs(of func(family) (name, remedy string)) subnet.Addrs {
	var found [len(families)]netip.Addr
	for _, f := range families {
		name, remedy := of(f)
		key := d.key(name)
		addr, err := f.parseAddr(key, d.from[key], remedy)
		if err != nil {
			d.errs = append(d.errs, err)
		}
		found[f] = addr
	}
	return subnet.Addrs{V4: found[v4], V6: found[v6]}
}

// data reads what the backend publishes. Where it has nothing to say, flannel writes the text null.
func (d *decoder) data(f family) json.RawMessage {
	key := d.key(names[f].data)
	text := d.from[key]
	switch {
	case text == "" || strings.TrimSpace(text) == "null":
		return nil
	case !json.Valid([]byte(text)):
		d.fail(key, shown(text), "is not JSON", "restart the node's agent, which writes it")
		return nil
	}
	return json.RawMessage(text)
}
