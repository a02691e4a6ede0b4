package netpol

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	documents "k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/policy"
)

// File is YAML or JSON, of one document or more, and a name for messages.
type File struct {
	Name string
	Data []byte
}

// Decode reads files as kubectl would apply them, together: NetworkPolicies, ClusterNetworkPolicies, Pods, Namespaces and Nodes,
// and lists of them. Other kinds are passed over. An object without namespace is in "default". A namespace that objects name but
// no file has gets the label of its name and no other, as `kubectl create namespace` would make it.
//
// A pod's addresses are in its status, as `kubectl get pods -o yaml` writes it; a pod without them is in the model, but no
// packet can be its.
//
// What can be read is returned; the error joins what cannot. It says file, document and object. A field that no policy has,
// such as a podSelectors, is an error too, for without it a policy may mean the opposite.
func Decode(files ...File) (policy.Model, error) {
	var d decoder
	for _, f := range files {
		d.file(f)
	}
	d.model.Namespaces = append(d.model.Namespaces, d.unnamed()...)
	return d.model, errors.Join(d.errs...)
}

type decoder struct {
	model policy.Model
	where string // "policies.yaml, document 2"
	errs  []error
}

func (d *decoder) fail(err error) {
	if err != nil {
		d.errs = append(d.errs, fmt.Errorf("%s: %w", d.where, err))
	}
}

func (d *decoder) file(f File) {
	r := documents.NewYAMLReader(bufio.NewReader(bytes.NewReader(f.Data)))
	for n := 1; ; n++ {
		d.where = fmt.Sprintf("%s, document %d", f.Name, n)
		text, err := r.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			d.fail(err)
			return
		}
		data, err := yaml.YAMLToJSONStrict(text)
		if err != nil {
			d.fail(err)
			continue
		}
		d.object(data, metav1.TypeMeta{})
	}
}

// object reads one object. What it does not say of its type, the list does that it is in.
func (d *decoder) object(data []byte, of metav1.TypeMeta) {
	if string(data) == "null" { // an empty document, or one of comments
		return
	}
	t := of
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &t); err != nil {
		d.fail(fmt.Errorf("is not an object: %w", err))
		return
	}
	switch {
	case t.Kind == "":
		d.fail(&podweft.FieldError{Field: "kind", Problem: "is missing"})
	case strings.HasSuffix(t.Kind, "List"):
		d.list(data, t)
	case t.APIVersion == "networking.k8s.io/v1" && t.Kind == "NetworkPolicy":
		d.policy(data)
	case t.APIVersion == "policy.networking.k8s.io/v1alpha2" && t.Kind == "ClusterNetworkPolicy":
		d.clusterPolicy(data)
	case strings.Contains(t.Kind, "NetworkPolicy"):
		d.fail(&podweft.FieldError{Field: "apiVersion", Value: t.APIVersion, Problem: "has no " + t.Kind + " that we know",
			Remedy: "use networking.k8s.io/v1 NetworkPolicy or policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy"})
	case t.APIVersion == "v1":
		d.core(data, t.Kind)
	}
}

func (d *decoder) list(data []byte, t metav1.TypeMeta) {
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &list); err != nil {
		d.fail(err)
		return
	}
	of := metav1.TypeMeta{Kind: strings.TrimSuffix(t.Kind, "List"), APIVersion: t.APIVersion}
	where := d.where
	for i, item := range list.Items {
		d.where = fmt.Sprintf("%s, items[%d]", where, i)
		d.object(item, of)
	}
	d.where = where
}

func (d *decoder) policy(data []byte) {
	var np networkingv1.NetworkPolicy
	if !d.strict(data, &np) {
		return
	}
	defaultNamespace(&np.Namespace)
	p, err := Policy(&np)
	d.fail(err)
	d.model.Policies = append(d.model.Policies, p)
}

func (d *decoder) clusterPolicy(data []byte) {
	p, ok, errs := clusterPolicy(data)
	for _, err := range errs {
		d.fail(err)
	}
	if ok {
		d.model.ClusterPolicies = append(d.model.ClusterPolicies, p)
	}
}

// strict reads data as the API server does when it is asked to be strict: names as they are written, and no others. It returns
// false where there is nothing to go on with.
func (d *decoder) strict(data []byte, into any) bool {
	unknown, err := kjson.UnmarshalStrict(data, into)
	d.fail(err)
	for _, err := range unknown {
		d.fail(err)
	}
	return err == nil
}

// core reads what is not ours to be strict with: a newer API server's objects have fields that we have not heard of.
func (d *decoder) core(data []byte, kind string) {
	read := func(into any) bool {
		err := kjson.UnmarshalCaseSensitivePreserveInts(data, into)
		d.fail(err)
		return err == nil
	}
	switch kind {
	case "Pod":
		if p := new(corev1.Pod); read(p) {
			defaultNamespace(&p.Namespace)
			pod, err := Pod(p)
			d.fail(err)
			d.model.Pods = append(d.model.Pods, pod)
		}
	case "Namespace":
		if ns := new(corev1.Namespace); read(ns) {
			d.model.Namespaces = append(d.model.Namespaces, Namespace(ns))
		}
	case "Node":
		if n := new(corev1.Node); read(n) {
			node, err := Node(n)
			d.fail(err)
			d.model.Nodes = append(d.model.Nodes, node)
		}
	}
}

func defaultNamespace(name *string) {
	if *name == "" {
		*name = metav1.NamespaceDefault
	}
}

// unnamed returns the namespaces that pods and policies are in and that no file has, in the order in which they come up.
func (d *decoder) unnamed() (out []policy.Namespace) {
	known := map[string]bool{}
	for _, ns := range d.model.Namespaces {
		known[ns.Name] = true
	}
	add := func(name string) {
		if !known[name] {
			known[name] = true
			out = append(out, Namespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
		}
	}
	for _, p := range d.model.Policies {
		add(p.Namespace)
	}
	for _, p := range d.model.Pods {
		add(p.Namespace)
	}
	return out
}
