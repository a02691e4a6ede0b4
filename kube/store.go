package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"github.com/podweft/podweft/subnet"
)

// ErrNoSubnet: the cluster has given the node no pod subnet, or does not know the node. It may yet: a node that joins exists
// first, and gets its subnet a moment later.
var ErrNoSubnet = errors.New("the cluster has given the node no pod subnet")

// Store is a [subnet.Store] in Kubernetes: a node's lease is its Node object's spec.podCIDRs, which the cluster gives, and the
// annotations, which its agent writes. Leases do not expire and are not chosen: [Store.Acquire] takes what the node was given, so
// it never says subnet.ErrExhausted, and Claim.TTL and Prefer mean nothing to it, but for an exact claim of another subnet, which
// is subnet.ErrTaken. The package's comment names the rights that it needs.
type Store struct {
	cfg    Config
	client rest.Interface
	web    *http.Client
}

var _ subnet.Store = (*Store)(nil)

// New returns the Store in that cluster. It does not wait for the API server: whoever asks the Store first hears that it is not
// there. The error is podweft.ErrInvalid, or says what is wrong with Config.Client.
func New(cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.filled()
	client, web, err := cfg.dial()
	if err != nil {
		return nil, err
	}
	return &Store{cfg: cfg, client: client, web: web}, nil
}

// Close closes the connections that nobody uses. The leases stay. End all watches before.
func (s *Store) Close() error {
	utilnet.CloseIdleConnectionsFor(s.web.Transport)
	return nil
}

// Acquire implements [subnet.Store]. Beside its errors: [ErrNoSubnet], and podweft.ErrInvalid for a node whose subnet lies outside
// the Network.
func (s *Store) Acquire(ctx context.Context, c subnet.Claim) (*subnet.Lease, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return s.publish(ctx, c.Node, func(node *corev1.Node) (*subnet.Lease, error) {
		given, err := s.given(node)
		if err != nil {
			return nil, err
		}
		if c.Exact && given != c.Prefer {
			return nil, fmt.Errorf("%w: %s: the cluster has given %s to %s", subnet.ErrTaken, c.Prefer, given, c.Node)
		}
		return &subnet.Lease{Node: c.Node, Prefixes: given, Underlay: c.Underlay, Backend: c.Backend, Data: c.Data}, nil
	})
}

// Update implements [subnet.Store].
func (s *Store) Update(ctx context.Context, l *subnet.Lease) (*subnet.Lease, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	return s.publish(ctx, l.Node, func(node *corev1.Node) (*subnet.Lease, error) {
		if held, _ := s.decode(node); held == nil || held.Prefixes != l.Prefixes {
			return nil, lost(l)
		}
		return l, nil
	})
}

// Renew implements [subnet.Store]. There is nothing to prolong: it looks whether the lease is there.
func (s *Store) Renew(ctx context.Context, l *subnet.Lease) (*subnet.Lease, error) {
	node, err := s.node(ctx, l.Node)
	if errors.Is(err, ErrNoSubnet) {
		return nil, lost(l)
	}
	if err != nil {
		return nil, err
	}
	held, _ := s.decode(node)
	if held == nil || held.Prefixes != l.Prefixes {
		return nil, lost(l)
	}
	return held, nil
}

// Release implements [subnet.Store]: it takes the annotations away. The node keeps its subnet as long as it is in the cluster.
func (s *Store) Release(ctx context.Context, l *subnet.Lease) error {
	_, err := s.write(ctx, l.Node, func(node *corev1.Node) (change, error) {
		held, _ := s.decode(node)
		if held == nil || held.Prefixes != l.Prefixes {
			return change{}, nil
		}
		annotations, err := s.cfg.Annotations.Patch(node, nil)
		return change{annotations: annotations}, err
	})
	if errors.Is(err, ErrNoSubnet) {
		return nil
	}
	return err
}

func lost(l *subnet.Lease) error { return fmt.Errorf("%w: %s", subnet.ErrLeaseLost, l) }

// publish makes the node show the lease that want returns, and returns it as it is then.
func (s *Store) publish(ctx context.Context, name string, want func(*corev1.Node) (*subnet.Lease, error)) (*subnet.Lease, error) {
	if s.cfg.Network == nil {
		return nil, subnet.ErrNoNetwork
	}
	node, err := s.write(ctx, name, func(node *corev1.Node) (change, error) {
		l, err := want(node)
		if err != nil {
			return change{}, err
		}
		annotations, err := s.cfg.Annotations.Patch(node, l)
		return change{annotations: annotations}, err
	})
	if err != nil {
		return nil, err
	}
	l, errs := s.decode(node)
	if l == nil {
		return nil, errors.Join(errs...)
	}
	return l, nil
}

// decode reads the node's lease: of the subnets that the cluster gave it, those of families that the Network has.
func (s *Store) decode(node *corev1.Node) (*subnet.Lease, []error) {
	l, errs := s.cfg.Annotations.decode(node)
	if l != nil {
		l.Prefixes = s.ofNetwork(l.Prefixes)
		if l.Prefixes.IsZero() {
			l = nil
		}
	}
	return l, errs
}

// ofNetwork leaves out a family that the Network does not have. A cluster of both gives every node a subnet of both.
func (s *Store) ofNetwork(p subnet.Prefixes) subnet.Prefixes {
	network := s.cfg.Network
	if network != nil && network.V4.IsZero() {
		p.V4 = netip.Prefix{}
	}
	if network != nil && network.V6.IsZero() {
		p.V6 = netip.Prefix{}
	}
	return p
}

// given is what the cluster gave the node for this Network.
func (s *Store) given(node *corev1.Node) (subnet.Prefixes, error) {
	if node.Spec.PodCIDR == "" && len(node.Spec.PodCIDRs) == 0 {
		return subnet.Prefixes{}, fmt.Errorf("%w: node %s has no spec.podCIDRs; "+
			"let kube-controller-manager give them out (--allocate-node-cidrs, --cluster-cidr), or set them on the node", ErrNoSubnet, node.Name)
	}
	d := decoder{Annotations: s.cfg.Annotations}
	p := s.ofNetwork(d.prefixes(&node.Spec))
	network := s.cfg.Network
	for _, f := range []struct {
		name   string
		within subnet.Range
		given  netip.Prefix
	}{{"IPv4", network.V4, p.V4}, {"IPv6", network.V6, p.V6}} {
		switch {
		case f.within.IsZero():
		case !f.given.IsValid():
			d.fail("spec.podCIDRs", nil, "have no "+f.name+" subnet, and the network does", "make the cluster's --cluster-cidr and the network agree")
		case !f.within.Network.Contains(f.given.Addr()) || f.given.Bits() < f.within.Network.Bits():
			d.fail("spec.podCIDRs", f.given, "lies outside the network "+f.within.Network.String(), "write the cluster's --cluster-cidr there")
		}
	}
	if err := errors.Join(d.errs...); err != nil {
		return subnet.Prefixes{}, fmt.Errorf("node %s: %w", node.Name, err)
	}
	return p, nil
}

// isGone reports whether what the API server was asked for is too long ago.
func isGone(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }
