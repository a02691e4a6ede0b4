package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"github.com/podweft/podweft/policy"
)

// PoliciesConfig says which cluster's policies are read, and how. Only Client is required.
type PoliciesConfig struct {
	Client  *rest.Config  // as in [Config], and so are the others
	Timeout time.Duration // of one request; zero: DefaultTimeout
	Logger  *slog.Logger  // nil: silent
}

// Validate reports everything that is wrong with the configuration, each as a [*podweft.FieldError].
func (c PoliciesConfig) Validate() error { return errors.Join(reachable(c.Client, c.Timeout)...) }

// Policies reads what policies are made of: a cluster's nodes, namespaces, pods, NetworkPolicies and, where the cluster has them,
// ClusterNetworkPolicies (policy.networking.k8s.io/v1alpha2). It is safe for concurrent use. Its agent needs these rights:
//
//	rules:
//	- {apiGroups: [""], resources: [nodes, namespaces, pods], verbs: [list, watch]}
//	- {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [list, watch]}
//	- {apiGroups: [policy.networking.k8s.io], resources: [clusternetworkpolicies], verbs: [list, watch]}
type Policies struct {
	cfg   PoliciesConfig
	web   *http.Client
	kinds []*kind
}

// NewPolicies returns a reader of that cluster. It does not wait for the API server. The error is podweft.ErrInvalid, or says what
// is wrong with the Client.
func NewPolicies(cfg PoliciesConfig) (*Policies, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, DefaultTimeout)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Policies{cfg: cfg}
	client := settled(cfg.Client)
	var err error
	if p.web, err = rest.HTTPClientFor(client); err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	p.kinds, err = kinds(client, p.web)
	return p, err
}

// Close closes the connections that nobody uses. End all watches before.
func (p *Policies) Close() error {
	utilnet.CloseIdleConnectionsFor(p.web.Transport)
	return nil
}

// Changes are what has become of the cluster's objects: what [policy.Compiler.Update] takes, and gate.Gate.Update.
type Changes struct {
	Put  policy.Model
	Gone []policy.ID
	// Problems are about what nobody can read in the objects of Put: that opens nothing. What is said of an object holds until it is
	// among Put or Gone again. They are also about ClusterNetworkPolicies of which nobody can tell whom they are about, or when they are
	// asked. Such a one is not in force, as if it were gone: what it has denied until then is left to the others. Those of a cluster
	// are each a [*Problem].
	Problems []error
}

// Problem is what nobody can read in an object.
type Problem struct {
	ID  policy.ID
	Err error // it names the object
}

// Error implements error.
func (p *Problem) Error() string { return p.Err.Error() }

// Unwrap returns Err.
func (p *Problem) Unwrap() error { return p.Err }

// List reads all objects as they are now.
func (p *Policies) List(ctx context.Context) (Changes, error) {
	_, box, err := p.list(ctx)
	if err != nil {
		return Changes{}, err
	}
	return box.take(), nil
}

// Watch yields all objects first, together, and then what changes; changes that come meanwhile are one. It says nothing of an object
// that has changed in what policies do not ask, as pods and nodes do all the time.
//
// An API server that goes away does not end it: the watch goes on where it was when there is one again, and what was missed is found by
// a list. What ends the watch is that the first list fails. It keeps of each object what a [policy.Model] has of it.
//
// Kinds are watched independently, as the API server offers it: a policy that was made before a pod may be told of after it, by some
// milliseconds as a rule.
func (p *Policies) Watch(ctx context.Context) iter.Seq2[Changes, error] {
	return func(yield func(Changes, error) bool) {
		if ctx.Err() != nil {
			return
		}
		inner, cancel := context.WithCancel(ctx)
		var group sync.WaitGroup
		defer group.Wait()
		defer cancel()
		followers, box, err := p.list(inner)
		if err != nil {
			if ctx.Err() == nil {
				yield(Changes{}, err)
			}
			return
		}
		if !yield(box.take(), nil) {
			return
		}
		for _, f := range followers {
			group.Go(func() { f.run(inner) })
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-box.news:
				if c := box.take(); !c.empty() && !yield(c, nil) {
					return
				}
			}
		}
	}
}

// list reads all kinds into a box.
func (p *Policies) list(ctx context.Context) (followers []*kindFollower, box *box, err error) {
	box = newBox()
	var group sync.WaitGroup
	errs := make([]error, len(p.kinds))
	for i, k := range p.kinds {
		f := &kindFollower{kind: k, cfg: p.cfg, box: box, known: map[policy.ID]known{}}
		followers = append(followers, f)
		group.Go(func() { errs[i] = f.list(ctx) })
	}
	group.Wait()
	return followers, box, errors.Join(errs...)
}

func (c Changes) empty() bool {
	m := c.Put
	return len(m.Nodes)+len(m.Namespaces)+len(m.Pods)+len(m.Policies)+len(m.ClusterPolicies)+len(c.Gone)+len(c.Problems) == 0
}
