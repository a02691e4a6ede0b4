package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/roster"
)

// DefaultNodeAnnotation is that of a [RosterConfig].
const DefaultNodeAnnotation = "podweft.github.io/node"

// RosterConfig says in which cluster a [Roster] finds its nodes. Only Client is required.
type RosterConfig struct {
	Client     *rest.Config  // how the API server is reached: rest.InClusterConfig, or clientcmd of a kubeconfig
	Annotation string        // what a node says of itself; empty: DefaultNodeAnnotation. Two networks in one cluster need two
	Timeout    time.Duration // of one request; zero: DefaultTimeout
	Logger     *slog.Logger  // hears of an API server that is lost, and found; nil: silent
}

// Validate reports everything that is wrong with the configuration, each as a [*podweft.FieldError].
func (c RosterConfig) Validate() error {
	errs := reachable(c.Client, c.Timeout)
	if c.Annotation != "" && len(validation.IsQualifiedName(strings.ToLower(c.Annotation))) > 0 {
		errs = append(errs, &podweft.FieldError{
			Field: "Annotation", Value: shown(c.Annotation), Problem: "cannot be the name of an annotation", Remedy: `write a domain and a word: "example.com/node"`,
		})
	}
	return errors.Join(errs...)
}

// Roster is a roster.Store over a cluster's Nodes. What a node says of itself is an annotation of its Node; who lives is the cluster's
// word, not ours, so that a thousand nodes have no heartbeats to listen to beside the kubelets': a node that was made known is alive
// until the cluster holds it for lost (its condition Ready is Unknown). Hence a TTL means nothing to Join, and Ranks are in the order in
// which Nodes were made, whenever they came to life. Labels are the Node's, and are not written.
//
// A Node that is deleted is forgotten. That is the proof to give a block.Collector, as roster.Gone, since a node that is merely cut off
// from the API server goes on to run its pods. [Election] says which agent collects.
type Roster struct {
	nodes *Store // reads and writes Nodes
	kind  *kind
	key   string // of the annotation

	mu   sync.Mutex
	seen *seenNodes // by the Watch that began last; nil: none
}

var _ roster.Store = (*Roster)(nil)

// NewRoster returns the Roster of that cluster. It does not wait for the API server. The error is podweft.ErrInvalid, or says what is
// wrong with the Client.
func NewRoster(cfg RosterConfig) (*Roster, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	nodes, err := New(Config{Client: cfg.Client, Timeout: cfg.Timeout, Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	r := &Roster{nodes: nodes, key: cmp.Or(cfg.Annotation, DefaultNodeAnnotation)}
	r.kind = &kind{
		resource: "nodes", client: nodes.client, page: func() runtime.Object { return &corev1.NodeList{} },
		model: func(o runtime.Object) (policy.ID, modelled, error) {
			n, ok := o.(*corev1.Node)
			if !ok {
				return policy.ID{}, nil, unexpected(o)
			}
			if seen, known := r.decode(n); known {
				return seen.ID(), seen, nil
			}
			return policy.Node{Name: n.Name}.ID(), nil, nil
		},
	}
	return r, nil
}

// Close closes the connections that nobody uses. What nodes say stays. End all watches before.
func (r *Roster) Close() error { return r.nodes.Close() }

// Node reads a Node as the cluster has it: its labels, say, and the addresses that it goes by there. [ErrNoSubnet] is among the errors
// where there is no such Node.
func (r *Roster) Node(ctx context.Context, name string) (*corev1.Node, error) {
	return r.nodes.node(ctx, name)
}

// SetNetworkAvailable says in the Node's status that pods can be started there: see [Store.SetNetworkAvailable].
func (r *Roster) SetNetworkAvailable(ctx context.Context, node, reason, message string) error {
	return r.nodes.SetNetworkAvailable(ctx, node, reason, message)
}

// words are the annotation's value.
type words struct {
	roster.Node
	Written uint64 `json:"revision"` // the Node's resourceVersion before: no other has the same
}

// seenNode is a node as it was seen.
type seenNode struct {
	roster.Node
	made time.Time
}

// ID implements modelled.
func (n seenNode) ID() policy.ID { return policy.Node{Name: n.Name}.ID() }

// decode reads what a Node says; it is not known if it says nothing.
func (r *Roster) decode(n *corev1.Node) (seen seenNode, known bool) {
	text, known := n.Annotations[r.key]
	if !known {
		return seen, false
	}
	var w words
	err := json.Unmarshal([]byte(text), &w)
	switch {
	case err != nil:
	case w.Name != n.Name:
		err = fmt.Errorf("it is about %s", shown(w.Name))
	default:
		err = w.Validate()
	}
	if err != nil {
		w = words{Node: roster.Node{Name: n.Name, Problem: fmt.Errorf("annotation %s: %w", r.key, err)}}
	} else {
		w.Labels = maps.Clone(n.Labels)
	}
	w.Alive = !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown
	})
	w.Revision = w.Written
	return seenNode{w.Node, n.CreationTimestamp.Time}, true
}

// Nodes implements [roster.Store]. While there is a Watch the answer is what that has seen, also when the API server is away; otherwise
// it is asked.
func (r *Roster) Nodes(ctx context.Context) (roster.Nodes, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	seen := r.seen
	r.mu.Unlock()
	if seen == nil {
		f := r.follower()
		if err := f.list(ctx); err != nil {
			return nil, err
		}
		seen = &seenNodes{}
		seen.note(f.box)
	}
	return seen.nodes(), nil
}

func (r *Roster) follower() *kindFollower {
	cfg := PoliciesConfig{Timeout: r.nodes.cfg.Timeout, Logger: r.nodes.cfg.Logger}
	return &kindFollower{kind: r.kind, cfg: cfg, box: newBox(), known: map[policy.ID]known{}}
}

// Join implements [roster.Store].
func (r *Roster) Join(ctx context.Context, n roster.Node, ttl time.Duration) error {
	err := n.Validate()
	if ttl <= 0 {
		err = errors.Join(err, &podweft.FieldError{Field: "ttl", Value: ttl, Problem: "is not a time to live"})
	}
	if err != nil {
		return err
	}
	_, err = r.nodes.write(ctx, n.Name, func(at *corev1.Node) (change, error) {
		n.Labels = at.Labels
		if seen, known := r.decode(at); known && seen.Problem == nil && seen.Says(n) {
			return change{}, nil
		}
		w := words{Node: n}
		w.Labels = nil
		var err error
		if w.Written, err = strconv.ParseUint(at.ResourceVersion, 10, 64); err != nil {
			return change{}, fmt.Errorf("the API server's resourceVersion %s is no number", shown(at.ResourceVersion))
		}
		text, err := json.Marshal(w)
		value := string(text)
		return change{annotations: map[string]*string{r.key: &value}}, err
	})
	return err
}

// Forget implements [roster.Store]. The Node stays.
func (r *Roster) Forget(ctx context.Context, name string) error {
	_, err := r.forget(ctx, name, func(seenNode) bool { return true })
	return err
}

// ForgetDead implements [roster.Store]. The Node stays. A node whose kubelet alone is silent joins again: before its pods' addresses are
// given to others, see whether it does.
func (r *Roster) ForgetDead(ctx context.Context, name string) (bool, error) {
	return r.forget(ctx, name, func(n seenNode) bool { return !n.Alive })
}

// forget makes a node unknown if it may, and reports whether it is unknown now.
func (r *Roster) forget(ctx context.Context, name string, may func(seenNode) bool) (forgotten bool, err error) {
	_, err = r.nodes.write(ctx, name, func(at *corev1.Node) (change, error) {
		n, known := r.decode(at)
		if forgotten = !known || may(n); !known || !forgotten {
			return change{}, nil
		}
		return change{annotations: map[string]*string{r.key: nil}}, nil
	})
	if errors.Is(err, ErrNoSubnet) { // there is no such Node
		return true, nil
	}
	return forgotten && err == nil, err
}

// Watch implements [roster.Store]. An API server that goes away does not end it. What ends it is that the first list fails.
func (r *Roster) Watch(ctx context.Context, changed func()) error {
	inner, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	f := r.follower()
	if err := f.list(inner); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	seen := &seenNodes{}
	seen.note(f.box)
	r.show(nil, seen)
	defer r.show(seen, nil)
	group.Go(func() { f.run(inner) })
	for {
		changed()
		select {
		case <-ctx.Done():
			return nil
		case <-f.box.news:
			seen.note(f.box)
		}
	}
}

// show makes now what Nodes answers with; with a was that is not nil only in its place.
func (r *Roster) show(was, now *seenNodes) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if was == nil || r.seen == was {
		r.seen = now
	}
}

// seenNodes are all nodes, as far as somebody has looked.
type seenNodes struct {
	mu    sync.Mutex
	known map[policy.ID]seenNode
}

// note takes what has changed.
func (s *seenNodes) note(from *box) {
	changed := from.empty()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = map[policy.ID]seenNode{}
	}
	for id, fate := range changed {
		if n, there := fate.object.(seenNode); there {
			s.known[id] = n
		} else {
			delete(s.known, id)
		}
	}
}

// nodes returns copies of all, with their Ranks.
func (s *seenNodes) nodes() roster.Nodes {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.known))
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b seenNode) int { return cmp.Or(a.made.Compare(b.made), cmp.Compare(a.Name, b.Name)) })
	nodes := make(roster.Nodes, len(all))
	for i, n := range all {
		nodes[i] = n.Clone()
		if n.Alive {
			nodes[i].Rank = uint64(i + 1)
		}
	}
	slices.SortFunc(nodes, func(a, b roster.Node) int { return cmp.Compare(a.Name, b.Name) })
	return nodes
}
