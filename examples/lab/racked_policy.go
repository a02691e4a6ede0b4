package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	documents "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/podweft/podweft/policy"
)

// castOf is who the pods are to the policies of the files. Agents are told when the pods are attached, and it stays so.
func (c *cluster) castOf(files *script) (*cast, error) {
	if c.racked == nil {
		return newCast(c, files.Model)
	}
	return c.racked.cast, nil
}

// part is who the pod is to policies: whoever it plays, or itself.
func (r *racked) part(p *pod) policy.Pod {
	if r.cast != nil {
		return *r.cast.of(p)
	}
	return policy.Pod{Namespace: "default", Name: p.name, Labels: r.labels[p.name], Addresses: p.addresses}
}

// tellPods writes what an orchestrator would tell: all pods with their labels, and their addresses as soon as they have some.
func (r *racked) tellPods() error {
	var objects []any
	if r.cast != nil {
		for _, ns := range r.cast.model.Namespaces {
			objects = append(objects, corev1.Namespace{
				TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
				ObjectMeta: metav1.ObjectMeta{Name: ns.Name, Labels: ns.Labels},
			})
		}
	}
	for p := range r.pods() {
		objects = append(objects, podObject(r.part(p)))
	}
	return r.writeObjectsTo("pods.yaml", objects...)
}

// podObject is the pod as Kubernetes has it.
func podObject(p policy.Pod) corev1.Pod {
	o := corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels},
		Spec:       corev1.PodSpec{NodeName: p.Node, HostNetwork: p.HostNetwork, Containers: []corev1.Container{{Name: "main"}}},
	}
	for _, port := range p.Ports {
		o.Spec.Containers[0].Ports = append(o.Spec.Containers[0].Ports, corev1.ContainerPort{
			Name: port.Name, Protocol: corev1.Protocol(port.Protocol.String()), ContainerPort: int32(port.Number),
		})
	}
	for _, a := range p.Addresses {
		o.Status.PodIPs = append(o.Status.PodIPs, corev1.PodIP{IP: a.String()})
	}
	return o
}

// enforce tells the agents of the policies, and of the pods as they are now.
func (r *racked) enforce() error {
	var objects []any
	for _, f := range r.o.policies.files {
		own, err := policyObjects(f.Data)
		if err != nil {
			return err
		}
		objects = append(objects, own...)
	}
	return errors.Join(r.tellPods(), r.writeObjectsTo("policies.yaml", objects...))
}

// policyObjects are a file's objects without those that the lab tells of itself: pods, namespaces and nodes.
func policyObjects(file []byte) (objects []any, err error) {
	for r := documents.NewYAMLReader(bufio.NewReader(bytes.NewReader(file))); ; {
		text, err := r.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		data, err := yaml.YAMLToJSON(text)
		if err != nil {
			return nil, err
		}
		own, err := withoutCast(data)
		if err != nil {
			return nil, err
		}
		objects = append(objects, own...)
	}
}

// withoutCast is the object, or the items of a list.
func withoutCast(data []byte) (objects []any, err error) {
	var o struct {
		Kind  string
		Items []json.RawMessage
	}
	if err := json.Unmarshal(data, &o); err != nil {
		return nil, err
	}
	switch {
	case slices.Contains([]string{"", "Pod", "PodList", "Namespace", "NamespaceList", "Node", "NodeList"}, o.Kind):
		return nil, nil
	case o.Kind != "List":
		return []any{json.RawMessage(data)}, nil
	}
	for _, item := range o.Items {
		own, err := withoutCast(item)
		if err != nil {
			return nil, err
		}
		objects = append(objects, own...)
	}
	return objects, nil
}

// writeObjectsTo writes a file of objects for the agents. JSON is YAML.
func (r *racked) writeObjectsTo(name string, objects ...any) error {
	var b bytes.Buffer
	for _, o := range objects {
		data, err := json.Marshal(o)
		if err != nil {
			return err
		}
		b.Write(append(data, "\n---\n"...))
	}
	return r.writePolicy(name, b.String())
}

// writePolicy writes a file for the agents at one stroke.
func (r *racked) writePolicy(name, text string) error {
	draft := filepath.Join(r.policies(), "."+name)
	if err := os.WriteFile(draft, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(draft, filepath.Join(r.policies(), name))
}
