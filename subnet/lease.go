package subnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/podweft/podweft"
)

// Node is this node as drivers and Stores see it.
type Node struct {
	Name     string // what the node's lease goes by; unique in the cluster
	Device   string // the interface of the underlay: "eth0"
	MTU      int    // of the underlay, in bytes
	Underlay Addrs  // the interface's own addresses: what the node sends from, and receives at
	Public   Addrs  // where peers send instead, of each family in which a NAT stands before the node; none as a rule
}

// Published is where peers send this node's packets, which its lease says.
func (n Node) Published() Addrs {
	p := n.Underlay
	if n.Public.V4.IsValid() {
		p.V4 = n.Public.V4
	}
	if n.Public.V6.IsValid() {
		p.V6 = n.Public.V6
	}
	return p
}

// Lease is one node's subnet and what its peers need to reach it. A Lease in a [Snapshot] is shared and never changes; copy
// the struct to change something.
type Lease struct {
	Key      string   `json:"key"`               // the Store's name for it; unique, and the order of a Snapshot
	Node     string   `json:"node"`              // whose it is
	Prefixes Prefixes `json:"prefixes"`          // the pod subnets
	Underlay Addrs    `json:"underlay,omitzero"` // where the node's packets are sent
	Backend  string   `json:"backend,omitempty"` // which backend the node runs: "vxlan"; flannel's udp leaves it empty
	Data     Data     `json:"data,omitzero"`     // what that backend publishes
	Revision uint64   `json:"revision"`          // of the Store when the lease last changed; a renewal is no change

	// Expires is when the lease ends unless it is renewed. Only the node that holds the lease is told, by Acquire, Update
	// and Renew; the zero time means never, or not known.
	Expires time.Time `json:"expires,omitzero"`
}

// String is the lease as a line for people: "10.244.3.0/24 of node-3 via 192.0.2.3".
func (l *Lease) String() string {
	s := fmt.Sprintf("%s of %s", l.Prefixes, l.Node)
	if !l.Underlay.IsZero() {
		s += " via " + l.Underlay.String()
	}
	return s
}

// sameAttributes reports whether l and o publish the same: everything a node may change about its lease.
func (l *Lease) sameAttributes(o *Lease) bool {
	return l.Underlay == o.Underlay && l.Backend == o.Backend && l.Data.Equal(o.Data)
}

// Problem is something another node or a person wrote to the Store that makes no sense and is therefore skipped, whole or
// in part.
type Problem struct {
	Key  string // where it is in the Store
	Node string // who wrote it, when that can be told
	Err  error  // what is wrong with it; as a rule a [*podweft.FieldError]
}

// Error makes a Problem an error that names the lease: "lease 10.9.0.0-24 of node-3: ...".
func (p Problem) Error() string {
	if p.Node == "" {
		return fmt.Sprintf("%s: %s", p.Key, p.Err)
	}
	return fmt.Sprintf("lease %s of %s: %s", p.Key, p.Node, p.Err)
}

// Unwrap returns Err.
func (p Problem) Unwrap() error { return p.Err }

// Claim is what a node asks a Store for. All but Node is optional.
type Claim struct {
	Node     string // who asks
	Underlay Addrs  // published with the lease, as are Backend and Data
	Backend  string
	Data     Data
	Prefer   Prefixes      // the subnets it had before: taken when they are free and fit the Network, each family for itself
	Exact    bool          // nothing but Prefer will do; the Store says ErrTaken otherwise
	TTL      time.Duration // how long the lease outlives the node's last Acquire or Renew; zero: as the Store has it
}

// Validate reports everything that is wrong with the claim, each as a [*podweft.FieldError].
func (c Claim) Validate() error {
	var errs []error
	if c.Node == "" {
		errs = append(errs, &podweft.FieldError{Field: "Claim.Node", Problem: "is missing", Remedy: "give the node's name, unique in the cluster"})
	}
	if c.TTL < 0 {
		errs = append(errs, &podweft.FieldError{Field: "Claim.TTL", Value: c.TTL, Problem: "is negative", Remedy: "leave it zero for the store's default"})
	}
	if c.Exact && c.Prefer.IsZero() {
		errs = append(errs, &podweft.FieldError{Field: "Claim.Prefer", Problem: "is missing", Remedy: "an exact claim needs the subnet it is for"})
	}
	return errors.Join(append(errs, validData(c.Data))...)
}

// Validate reports everything that a Store could not keep of l's published attributes, each as a [*podweft.FieldError].
func (l *Lease) Validate() error {
	if l.Node == "" {
		return errors.Join(&podweft.FieldError{Field: "Lease.Node", Problem: "is missing"}, validData(l.Data))
	}
	return validData(l.Data)
}

func validData(d Data) error {
	var errs []error
	for f, raw := range [...]json.RawMessage{d.V4, d.V6} {
		if len(raw) > 0 && !json.Valid(raw) {
			errs = append(errs, &podweft.FieldError{Field: "Data." + family(f).suffix(), Value: fmt.Sprintf("%q", raw), Problem: "is not JSON"})
		}
	}
	return errors.Join(errs...)
}
