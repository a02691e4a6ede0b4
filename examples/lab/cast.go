package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/kube/netpol"
	"github.com/podweft/podweft/policy"
)

// mostCast is how many pods a picture of policies shows.
const mostCast = mostColumns

// script is what the files of --policy have.
type script struct {
	policy.Model
	files []netpol.File
}

// loadPolicies reads the files of --policy, for that many nodes with that many pods on each; nil if there are none. What is wrong with
// an object of theirs is an error: the lab would show something else.
func loadPolicies(names []string, nodes, pods int) (*script, error) {
	if len(names) == 0 {
		return nil, nil
	}
	files := make([]netpol.File, len(names))
	for i, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("--policy: %w", err)
		}
		files[i] = netpol.File{Name: name, Data: data}
	}
	m, err := netpol.Decode(files...)
	if err == nil {
		_, err = policy.Compile(m)
	}
	if err != nil {
		return nil, fmt.Errorf("--policy: %s", oneLine(err))
	}
	if len(m.Policies)+len(m.ClusterPolicies) == 0 {
		return nil, &podweft.FieldError{Field: "--policy", Value: strings.Join(names, " "), Problem: "has no policy", Remedy: "name a file with a NetworkPolicy"}
	}
	if nodes*pods > mostCast {
		return nil, &podweft.FieldError{
			Field: "--pods", Value: pods, Problem: fmt.Sprintf("on %d nodes are more than a picture of policies shows", nodes),
			Remedy: fmt.Sprintf("use %d pods in all, or fewer", mostCast),
		}
	}
	m.Nodes = nil // the lab has its own
	return &script{m, files}, nil
}

// cast is who plays whom: the lab's pods as policies see them.
type cast struct {
	model policy.Model // of the files, and of the lab's nodes and pods
	roles []role       // of all pods, in the order of the cluster's
	later []label      // what makes pods such as policies allow
}

// role is a pod of the model that one of the lab plays.
type role struct {
	pod   *pod
	index int // in the model's Pods
}

// label is one of a pod's, or of a namespace's if pod is nil.
type label struct {
	pod        *pod
	namespace  string
	key, value string
}

// target is what the label is put on, as `lab label` calls it.
func (l label) target() string {
	if l.pod != nil {
		return l.pod.name
	}
	return "ns/" + l.namespace
}

// newCast gives the cluster's pods their roles. If the files have pods, they play those. Otherwise they are made up from the
// policies: for each a pod that it selects, and for each of its peers one that is not like it yet and becomes so with the labels of
// later. Who is left over has no labels, in the first policy's namespace.
func newCast(c *cluster, files policy.Model) (*cast, error) {
	k := &cast{model: files}
	k.model.Pods = nil
	for _, m := range c.members {
		n := policy.Node{Name: m.machine.Name, Addresses: m.machine.Addrs()}
		if c.racked == nil {
			for prefix := range m.agent.Status().Lease.Prefixes.All() {
				n.Addresses = append(n.Addresses, prefix.Masked().Addr().Next()) // the bridge
			}
		}
		k.model.Nodes = append(k.model.Nodes, n)
	}
	free := byTurns(c)
	parts := files.Pods
	if len(parts) == 0 {
		parts = k.invent(free)
	}
	if len(parts) > len(free) {
		need := (len(parts) + len(c.members) - 1) / len(c.members)
		return nil, &podweft.FieldError{
			Field: "--pods", Problem: fmt.Sprintf("are too few: the policies and their peers are about %d pods", len(parts)),
			Remedy: fmt.Sprintf("use %d or more, on %d nodes", need, len(c.members)),
		}
	}
	for i, p := range free {
		part := policy.Pod{Name: p.name, Namespace: k.home()}
		if i < len(parts) {
			part = parts[i]
		}
		part.Node = p.on.machine.Name
		if c.racked != nil {
			part.Phase = policy.Running // a pod that has ended has no part in policies, and agents would wait for it to begin
		}
		part.Labels = maps.Clone(part.Labels)
		k.model.Pods = append(k.model.Pods, part)
		k.roles = append(k.roles, role{p, i})
		k.namespace(part.Namespace)
	}
	slices.SortStableFunc(k.roles, func(a, b role) int { return cmp.Compare(index(c, a.pod), index(c, b.pod)) })
	k.locate()
	return k, nil
}

// locate tells the model the pods' addresses.
func (k *cast) locate() {
	for _, r := range k.roles {
		k.model.Pods[r.index].Addresses = r.pod.addresses
	}
}

// byTurns are the pods, one of each node and then the next of each, so that neighbours in a play are not on one bridge.
func byTurns(c *cluster) (list []*pod) {
	for i := 0; ; i++ {
		before := len(list)
		for _, m := range c.members {
			if i < len(m.pods) {
				list = append(list, m.pods[i])
			}
		}
		if len(list) == before {
			return list
		}
	}
}

func index(c *cluster, p *pod) int { return slices.Index(slices.Collect(c.pods()), p) }

// home is where pods are that nobody speaks of.
func (k *cast) home() string {
	if len(k.model.Policies) > 0 {
		return k.model.Policies[0].Namespace
	}
	return "default"
}

// invent makes up the pods that the policies speak of.
func (k *cast) invent(free []*pod) (parts []policy.Pod) {
	add := func(namespace string, labels map[string]string) {
		p := policy.Pod{Namespace: namespace, Name: "?", Labels: labels}
		if len(parts) < len(free) {
			p.Name = free[len(parts)].name
		}
		parts = append(parts, p)
	}
	seen := map[string]bool{}
	first := func(text string) bool {
		known := seen[text]
		seen[text] = true
		return !known
	}
	for _, np := range k.model.Policies {
		if first("pods " + np.Namespace + " " + np.Pods.String()) {
			add(np.Namespace, satisfy(np.Pods))
		}
	}
	for _, cnp := range k.model.ClusterPolicies {
		if first("subject " + cnp.Subject.Namespaces.String() + " " + cnp.Subject.Pods.String()) {
			add(k.place(&cnp.Subject.Namespaces, true), satisfy(cnp.Subject.Pods))
		}
	}
	for of, peer := range peersOf(k.model) {
		if peer.Block != nil || !first("peer "+of+" "+peer.String()) {
			continue
		}
		namespace, n := of, len(parts)
		if peer.Namespaces != nil {
			namespace = k.place(peer.Namespaces, false)
		}
		if add(namespace, nil); n < len(free) && peer.Pods != nil {
			for key, value := range sorted(satisfy(*peer.Pods)) {
				k.later = append(k.later, label{free[n], "", key, value})
			}
		}
	}
	return parts
}

// metadataName is the label with its name that each namespace has.
const metadataName = "kubernetes.io/metadata.name"

// place makes up a namespace of the sort that the selector selects. Its labels are there from the beginning, or come later.
func (k *cast) place(of *policy.Selector, now bool) string {
	labels := satisfy(*of)
	name := cmp.Or(labels[metadataName], "other")
	for _, value := range sorted(labels) {
		if namespaceForm.MatchString(value) && labels[metadataName] == "" {
			name = value
			break
		}
	}
	for base, i := name, 2; k.named(name) && labels[metadataName] == ""; i++ {
		name = fmt.Sprintf("%s-%d", base, i)
	}
	ns := k.namespace(name)
	for key, value := range sorted(labels) {
		switch {
		case key == metadataName:
		case now:
			ns.Labels[key] = value
		default:
			k.later = append(k.later, label{nil, name, key, value})
		}
	}
	return name
}

var namespaceForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func (k *cast) named(namespace string) bool {
	return slices.ContainsFunc(k.model.Namespaces, func(ns policy.Namespace) bool { return ns.Name == namespace })
}

// namespace returns the model's, made if need be.
func (k *cast) namespace(name string) *policy.Namespace {
	if !k.named(name) {
		k.model.Namespaces = append(k.model.Namespaces, policy.Namespace{Name: name, Labels: map[string]string{metadataName: name}})
	}
	i := slices.IndexFunc(k.model.Namespaces, func(ns policy.Namespace) bool { return ns.Name == name })
	return &k.model.Namespaces[i]
}

// satisfy makes up labels that the selector matches, as far as it asks for any.
func satisfy(s policy.Selector) map[string]string {
	labels := map[string]string{}
	for _, r := range s.MatchExpressions {
		switch {
		case r.Operator == policy.In && len(r.Values) > 0:
			labels[r.Key] = r.Values[0]
		case r.Operator == policy.Exists:
			labels[r.Key] = "yes"
		}
	}
	maps.Copy(labels, s.MatchLabels)
	return labels
}

// put puts a label on a pod or a namespace, or takes it off if its value is empty.
func (k *cast) put(l label) error {
	labels, err := k.labelsOf(l)
	if err != nil {
		return err
	}
	changed := maps.Clone(*labels) // what a compiler has been given is not to be changed
	if changed == nil {
		changed = map[string]string{}
	}
	if changed[l.key] = l.value; l.value == "" {
		delete(changed, l.key)
	}
	*labels = changed
	return nil
}

func (k *cast) labelsOf(l label) (*map[string]string, error) {
	if l.pod != nil {
		return &k.of(l.pod).Labels, nil
	}
	if !k.named(l.namespace) {
		return nil, misused(fmt.Sprintf("there is no namespace %q: `lab policy` lists them", l.namespace))
	}
	return &k.namespace(l.namespace).Labels, nil
}

// of is the pod's part.
func (k *cast) of(p *pod) *policy.Pod {
	i := slices.IndexFunc(k.roles, func(r role) bool { return r.pod == p })
	return &k.model.Pods[k.roles[i].index]
}

// table is the cast for people.
func (k *cast) table() table {
	var t table
	t.head("pod", "plays", "labels", "of its namespace")
	for _, r := range k.roles {
		p := k.model.Pods[r.index]
		ns := maps.Clone(k.namespace(p.Namespace).Labels)
		delete(ns, metadataName) // they all have it
		t.row(cell{r.pod.name, bold}, cell{p.Namespace + "/" + p.Name, plain}, cell{labelText(p.Labels), cyan}, cell{labelText(ns), cyan})
	}
	return t
}

func labelText(labels map[string]string) string {
	var parts []string
	for key, value := range sorted(labels) {
		parts = append(parts, key+"="+value)
	}
	return strings.Join(parts, ",")
}

// sorted yields a map by its keys.
func sorted(m map[string]string) func(yield func(key, value string) bool) {
	return func(yield func(key, value string) bool) {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			if !yield(key, m[key]) {
				return
			}
		}
	}
}

// peersOf yields the peers of all rules with the namespace of their policy.
func peersOf(m policy.Model) func(yield func(of string, p policy.Peer) bool) {
	return func(yield func(of string, p policy.Peer) bool) {
		for _, np := range m.Policies {
			for _, r := range slices.Concat(np.Ingress, np.Egress) {
				for _, p := range r.Peers {
					if !yield(np.Namespace, p) {
						return
					}
				}
			}
		}
		for _, cnp := range m.ClusterPolicies {
			for _, r := range slices.Concat(cnp.Ingress, cnp.Egress) {
				for _, p := range r.Peers {
					if !yield("", p) {
						return
					}
				}
			}
		}
	}
}

// portOf is the first TCP port that a rule names, else 80.
func portOf(m policy.Model) uint16 {
	var ports []policy.Port
	for _, np := range m.Policies {
		for _, r := range slices.Concat(np.Ingress, np.Egress) {
			ports = append(ports, r.Ports...)
		}
	}
	for _, cnp := range m.ClusterPolicies {
		for _, r := range slices.Concat(cnp.Ingress, cnp.Egress) {
			ports = append(ports, r.Ports...)
		}
	}
	for _, p := range ports {
		if p.Number != 0 && cmp.Or(p.Protocol, policy.TCP) == policy.TCP {
			return p.Number
		}
	}
	return 80
}
