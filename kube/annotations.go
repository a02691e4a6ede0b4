package kube

import (
	"cmp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/podweft/podweft"
)

// DefaultPrefix is what flannel's annotations begin with.
const DefaultPrefix = "flannel.alpha.coreos.com"

// Annotations says which annotations of a Node are ours. The zero value means flannel's. All nodes of a network use the same.
type Annotations struct {
	// Prefix is flannel's kube-annotation-prefix; empty is DefaultPrefix. Two networks in one cluster need two: "example.com"
	// makes example.com/public-ip, and "example.com/blue" makes example.com/blue-public-ip.
	Prefix string
}

// The names of the annotations that do not exist once for each family.
const (
	managed     = "kube-subnet-manager"
	backendType = "backend-type"
)

// Validate reports a Prefix that the API server would refuse, as a [*podweft.FieldError].
func (a Annotations) Validate() error {
	longest := strings.ToLower(a.key(names[v6].overwrite)) // the API server does not mind capitals either
	if len(validation.IsQualifiedName(longest)) > 0 {
		return &podweft.FieldError{
			Field: "Prefix", Value: shown(a.Prefix), Problem: "cannot begin the name of an annotation",
			Remedy: `write a domain, "example.com", or a domain and a word of at most 41 characters, "example.com/blue"`,
		}
	}
	return nil
}

// key is an annotation's whole key, put together as flannel does it.
func (a Annotations) key(name string) string {
	prefix := cmp.Or(a.Prefix, DefaultPrefix)
	switch {
	case !strings.Contains(prefix, "/"):
		prefix += "/"
	case !strings.HasSuffix(prefix, "/") && !strings.HasSuffix(prefix, "-"):
		prefix += "-"
	}
	return prefix + name
}
