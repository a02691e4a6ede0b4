package calico

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/podweft/podweft/kube"
	"github.com/podweft/podweft/kube/netpol"
	"github.com/podweft/podweft/policy"
)

// PolicySource is where an Agent learns of policies, and of the pods and namespaces that they speak of: a [*kube.Policies], or
// [PolicyFiles]. It is safe for concurrent use.
type PolicySource interface {
	// List returns everything as it is now. The error is that nobody can tell; what is wrong with single objects is among the Problems.
	List(ctx context.Context) (kube.Changes, error)
	// Watch yields everything first, and then what changes, until ctx ends.
	Watch(ctx context.Context) iter.Seq2[kube.Changes, error]
}

var _ PolicySource = (*kube.Policies)(nil)

// PolicyFiles are NetworkPolicies, Namespaces and Pods in YAML, in files and in all files of directories. A pod's labels are to be
// there before it is attached, for an agent lets no pod go whose policies it cannot know; its addresses are known on its own node, and
// elsewhere from its status.
type PolicyFiles []string

var _ PolicySource = PolicyFiles(nil)

// model is everything that can be read; the error is about the rest.
func (p PolicyFiles) model() (policy.Model, error) {
	var files []netpol.File
	var errs []error
	for _, path := range p {
		err := filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case e.IsDir() && name != path && strings.HasPrefix(e.Name(), "."):
				return fs.SkipDir // where a mounted ConfigMap has what its links lead to
			case e.IsDir(), name != path && !isYAML(name):
				return nil
			}
			data, err := os.ReadFile(name)
			if err == nil {
				files = append(files, netpol.File{Name: name, Data: data})
			}
			return err
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("policies: %w", err))
		}
	}
	m, err := netpol.Decode(files...)
	return m, errors.Join(append(errs, err)...)
}

// isYAML reports whether a file of a directory is meant; those that begin with a dot are being written.
func isYAML(name string) bool {
	base := filepath.Base(name)
	return !strings.HasPrefix(base, ".") && (strings.HasSuffix(base, ".yaml") || strings.HasSuffix(base, ".yml") || strings.HasSuffix(base, ".json"))
}

// List implements [PolicySource]. What cannot be read is a Problem of no object's.
func (p PolicyFiles) List(ctx context.Context) (c kube.Changes, err error) {
	m, err := p.model()
	c.Put = m
	if err != nil {
		c.Problems = []error{err}
	}
	return c, ctx.Err()
}

// Watch implements [PolicySource]. As long as something cannot be read nothing is gone: a policy that is being written anew must not be
// missing for a moment.
func (p PolicyFiles) Watch(ctx context.Context) iter.Seq2[kube.Changes, error] {
	return func(yield func(kube.Changes, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		known := map[policy.ID]bool{}
		watchFiles(ctx, p, func() {
			c, err := p.List(ctx)
			if err != nil {
				return
			}
			now := ids(c.Put)
			if len(c.Problems) == 0 {
				c.Gone, known = missing(known, now), now
			} else {
				maps.Copy(known, now)
			}
			if !yield(c, nil) {
				cancel()
			}
		})
	}
}

// ids are the names of everything in a model.
func ids(m policy.Model) map[policy.ID]bool {
	all := map[policy.ID]bool{}
	for _, o := range m.Nodes {
		all[o.ID()] = true
	}
	for _, o := range m.Namespaces {
		all[o.ID()] = true
	}
	for _, o := range m.Pods {
		all[o.ID()] = true
	}
	for _, o := range m.Policies {
		all[o.ID()] = true
	}
	for _, o := range m.ClusterPolicies {
		all[o.ID()] = true
	}
	return all
}

// missing names what was there before and is not any more.
func missing(before, now map[policy.ID]bool) (gone []policy.ID) {
	for id := range before {
		if !now[id] {
			gone = append(gone, id)
		}
	}
	return gone
}
