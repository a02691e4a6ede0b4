package policy

import (
	"cmp"
	"slices"
)

// scope is a pair of selectors: some pods of one namespace, or of the namespaces that a selector matches. Subjects of policies
// are scopes, and so are peers of rules; many share one.
type scope struct {
	scopeKey
	namespaceLabels, podLabels Selector // what the key's texts were made of
}

// scopeKey tells scopes apart. Selectors stand in their text form, which is the same for the same conditions.
type scopeKey struct {
	wide      bool   // in the namespaces that a selector matches
	namespace string // the one namespace, or that selector
	pods      string
}

// ownScope is some pods of one namespace.
func ownScope(namespace string, pods Selector) scope {
	return scope{scopeKey: scopeKey{namespace: namespace, pods: pods.String()}, podLabels: pods}
}

// wideScope is some pods of some namespaces.
func wideScope(namespaces, pods Selector) scope {
	return scope{
		scopeKey:        scopeKey{wide: true, namespace: namespaces.String(), pods: pods.String()},
		namespaceLabels: namespaces, podLabels: pods,
	}
}

// peerScope is who a peer without a Block selects, in a policy of the namespace own.
func peerScope(own string, p Peer) scope {
	var pods Selector
	if p.Pods != nil {
		pods = *p.Pods
	}
	if p.Namespaces == nil {
		return ownScope(own, pods)
	}
	return wideScope(*p.Namespaces, pods)
}

func (k scopeKey) setName() string {
	return hashed(peersName, [...]string{"one", "wide"}[b2i(k.wide)], k.namespace, k.pods)
}

// String is the scope for people: "pods role=client in namespace default".
func (k scopeKey) String() string {
	who, where := "all pods", " in namespace "+k.namespace
	if k.pods != "" {
		who = "pods " + k.pods
	}
	switch {
	case k.wide && k.namespace == "":
		where = " in all namespaces"
	case k.wide:
		where = " in namespaces " + k.namespace
	}
	return who + where
}

func (s scope) compare(o scope) int {
	return cmp.Or(cmp.Compare(b2i(s.wide), b2i(o.wide)), cmp.Compare(s.namespace, o.namespace), cmp.Compare(s.pods, o.pods))
}

func (s scope) equal(o scope) bool { return s.scopeKey == o.scopeKey }

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// scopeIndex holds the scopes that reach into one namespace, so that a pod is not compared with all of them: most demand a label
// of some value, and stand under that one.
type scopeIndex struct {
	under map[label][]*members
	rest  []*members
}

func (x *scopeIndex) add(m *members) {
	labels := m.podLabels.pivots()
	if labels == nil {
		x.rest = append(x.rest, m)
		return
	}
	if x.under == nil {
		x.under = map[label][]*members{}
	}
	for _, l := range labels {
		x.under[l] = append(x.under[l], m)
	}
}

func (x *scopeIndex) remove(m *members) {
	is := func(o *members) bool { return o == m }
	x.rest = slices.DeleteFunc(x.rest, is)
	for _, l := range m.podLabels.pivots() {
		if x.under[l] = slices.DeleteFunc(x.under[l], is); len(x.under[l]) == 0 {
			delete(x.under, l)
		}
	}
}

// of appends the scopes that a pod with these labels is in to buf. No scope is appended twice: a pod has one value for a key.
func (x *scopeIndex) of(labels map[string]string, buf []*members) []*members {
	for key, value := range labels {
		for _, m := range x.under[label{key, value}] {
			if m.podLabels.Matches(labels) {
				buf = append(buf, m)
			}
		}
	}
	for _, m := range x.rest {
		if m.podLabels.Matches(labels) {
			buf = append(buf, m)
		}
	}
	return buf
}
