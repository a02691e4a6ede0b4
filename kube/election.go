package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"github.com/podweft/podweft"
)

// DefaultTerm is that of an [ElectionConfig].
const DefaultTerm = 3 * time.Minute

// ElectionConfig says who is to be chosen, and where. Client, Namespace, Name and Candidate are required.
type ElectionConfig struct {
	Client          *rest.Config  // how the API server is reached: rest.InClusterConfig, or clientcmd of a kubeconfig
	Namespace, Name string        // of the Lease (coordination.k8s.io/v1) that all candidates write
	Candidate       string        // this one; no other has the same name
	Term            time.Duration // how long one leads who is not heard of; whole seconds; zero: DefaultTerm
	Timeout         time.Duration // of one request; zero: DefaultTimeout
}

// Validate reports everything that is wrong with the configuration, each as a [*podweft.FieldError].
func (c ElectionConfig) Validate() error {
	errs := reachable(c.Client, c.Timeout)
	for field, text := range map[string]string{"Namespace": c.Namespace, "Name": c.Name, "Candidate": c.Candidate} {
		if text == "" {
			errs = append(errs, &podweft.FieldError{Field: field, Problem: "is missing"})
		}
	}
	if c.Term < 0 || c.Term%time.Second != 0 {
		errs = append(errs, &podweft.FieldError{Field: "Term", Value: c.Term, Problem: "is not a time in whole seconds", Remedy: "leave it zero for three minutes"})
	}
	return errors.Join(errs...)
}

// Election chooses one of many by a Lease, as Kubernetes' own controllers do, for work that one is to do at a time: [Election.Lead] is
// the Lead of a block.Collector. It runs nothing of its own: whoever asks renews, and who does not ask for a Term is replaced. Nobody's
// clock is compared with another's. It is safe for concurrent use. A candidate needs this right in the namespace:
//
//	rules:
//	- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}
type Election struct {
	cfg    ElectionConfig
	client rest.Interface
	web    *http.Client

	mu    sync.Mutex
	seen  string    // the resourceVersion of another's Lease
	since time.Time // when it was seen first
}

// NewElection returns the Election. It does not wait for the API server. The error is podweft.ErrInvalid, or says what is wrong with the
// Client.
func NewElection(cfg ElectionConfig) (*Election, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Term == 0 {
		cfg.Term = DefaultTerm
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	to := settled(cfg.Client)
	web, err := rest.HTTPClientFor(to)
	if err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	client, err := clientOf(to, web, coordinationv1.SchemeGroupVersion, coordinationv1.AddToScheme)
	if err != nil {
		return nil, err
	}
	return &Election{cfg: cfg, client: client, web: web}, nil
}

// Close closes the connections that nobody uses. Who leads goes on to lead for a Term.
func (e *Election) Close() error {
	utilnet.CloseIdleConnectionsFor(e.web.Transport)
	return nil
}

// Lead reports whether this candidate leads now. It takes the lead when nobody has it, or when who has it was not heard of for a Term.
// Ask more often than twice in a Term. An error means that nobody knows: do nothing then.
func (e *Election) Lead(ctx context.Context) (bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	won, err := e.campaign(ctx)
	switch {
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err): // another one was faster
		return false, nil
	case err != nil:
		return false, fmt.Errorf("lease %s/%s: %w", e.cfg.Namespace, e.cfg.Name, err)
	}
	return won, nil
}

func (e *Election) campaign(ctx context.Context) (won bool, err error) {
	now := time.Now()
	var lease coordinationv1.Lease
	err = e.client.Get().Namespace(e.cfg.Namespace).Resource("leases").Name(e.cfg.Name).Do(ctx).Into(&lease)
	if apierrors.IsNotFound(err) {
		lease = coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: e.cfg.Namespace, Name: e.cfg.Name}}
		e.take(&lease, now)
		return true, e.client.Post().Namespace(e.cfg.Namespace).Resource("leases").Body(&lease).Do(ctx).Error()
	}
	if err != nil {
		return false, err
	}
	if e.others(&lease, now) {
		return false, nil
	}
	e.take(&lease, now)
	return true, e.client.Put().Namespace(e.cfg.Namespace).Resource("leases").Name(e.cfg.Name).Body(&lease).Do(ctx).Error()
}

// others reports whether the lease is another's who may be alive.
func (e *Election) others(lease *coordinationv1.Lease, now time.Time) bool {
	holder := lease.Spec.HolderIdentity
	if holder == nil || *holder == "" || *holder == e.cfg.Candidate {
		return false
	}
	if lease.ResourceVersion != e.seen {
		e.seen, e.since = lease.ResourceVersion, now
	}
	term := e.cfg.Term
	if s := lease.Spec.LeaseDurationSeconds; s != nil {
		term = time.Duration(*s) * time.Second // that one's own
	}
	return now.Sub(e.since) < term
}

// take makes the lease ours, or renews it.
func (e *Election) take(lease *coordinationv1.Lease, now time.Time) {
	s := &lease.Spec
	at := metav1.NewMicroTime(now)
	if s.HolderIdentity == nil || *s.HolderIdentity != e.cfg.Candidate {
		changes := int32(0)
		if s.LeaseTransitions != nil {
			changes = *s.LeaseTransitions + 1
		}
		s.AcquireTime, s.LeaseTransitions = &at, &changes
	}
	seconds := int32(e.cfg.Term / time.Second)
	s.HolderIdentity, s.LeaseDurationSeconds, s.RenewTime = &e.cfg.Candidate, &seconds, &at
}
