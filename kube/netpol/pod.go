package netpol

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/podweft/podweft/policy"
)

// Pod turns a pod into one of the model. Its ports are those of its containers, and of init containers that go on running beside
// them (restartPolicy: Always). The error joins a [*podweft.FieldError] for each address and port that is none; it is left out.
func Pod(p *corev1.Pod) (policy.Pod, error) {
	out := policy.Pod{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels, Node: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork, Phase: phase(p)}
	r := reader{of: out.ID()}
	out.Addresses = r.podIPs(&p.Status)
	for i, c := range p.Spec.Containers {
		out.Ports = append(out.Ports, r.namedPorts(fmt.Sprintf("spec.containers[%d]", i), c.Ports)...)
	}
	for i, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out.Ports = append(out.Ports, r.namedPorts(fmt.Sprintf("spec.initContainers[%d]", i), c.Ports)...)
		}
	}
	return out, errors.Join(r.errs...)
}

// phase: a pod that was told to end has ended only when its processes have.
func phase(p *corev1.Pod) policy.Phase {
	switch {
	case p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed:
		return policy.Finished
	case p.DeletionTimestamp != nil:
		return policy.Terminating
	}
	return policy.Running
}

// podIPs reads the addresses; podIP is the first of podIPs once more, and the only one where somebody wrote the status by hand.
func (r *reader) podIPs(s *corev1.PodStatus) (out []netip.Addr) {
	for i, ip := range s.PodIPs {
		out = r.addr(out, fmt.Sprintf("status.podIPs[%d].ip", i), ip.IP)
	}
	if len(s.PodIPs) == 0 && s.PodIP != "" {
		out = r.addr(out, "status.podIP", s.PodIP)
	}
	return out
}

func (r *reader) addr(to []netip.Addr, field, text string) []netip.Addr {
	a, err := netip.ParseAddr(text)
	if err != nil {
		r.bad(field, fmt.Sprintf("%q", text), "is not an address", "")
		return to
	}
	return append(to, a)
}

func (r *reader) namedPorts(field string, ports []corev1.ContainerPort) (out []policy.NamedPort) {
	for i, p := range ports {
		if p.Name == "" {
			continue
		}
		at := fmt.Sprintf("%s.ports[%d]", field, i)
		spoilt := policy.Port{Protocol: r.protocol(at+".protocol", p.Protocol)}
		number := r.number(at+".containerPort", p.ContainerPort, &spoilt)
		if spoilt.Protocol != badProtocol {
			out = append(out, policy.NamedPort{Name: p.Name, Protocol: spoilt.Protocol, Number: number})
		}
	}
	return out
}

// Namespace turns a namespace into one of the model, with the label kubernetes.io/metadata.name that the API server gives it.
func Namespace(ns *corev1.Namespace) policy.Namespace {
	labels := maps.Clone(ns.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[corev1.LabelMetadataName] = ns.Name
	return policy.Namespace{Name: ns.Name, Labels: labels}
}

// Node turns a node into one of the model, with the addresses that it shows. Those of its bridge and its tunnel, from which it
// talks with its pods, it does not show: whoever knows them adds them.
func Node(n *corev1.Node) (policy.Node, error) {
	out := policy.Node{Name: n.Name}
	r := reader{of: out.ID()}
	for i, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			out.Addresses = r.addr(out.Addresses, fmt.Sprintf("status.addresses[%d]", i), a.Address)
		}
	}
	return out, errors.Join(r.errs...)
}
