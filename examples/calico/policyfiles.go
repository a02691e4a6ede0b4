package calico

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/podweft/podweft/kube/netpol"
	"github.com/podweft/podweft/policy"
)

// PolicySource is where an Agent learns of policies, and of the pods and namespaces that they speak of. It is safe for concurrent use.
type PolicySource interface {
	// Model returns everything as it is now. The error is about what could not be read.
	Model(ctx context.Context) (policy.Model, error)
	// Watch calls changed once when it has begun to listen, and then whenever there may be another answer, until ctx ends.
	Watch(ctx context.Context, changed func()) error
}

// PolicyFiles are NetworkPolicies, Namespaces and Pods in YAML, in files and in all files of directories. A pod's labels are to be
// there before it is attached, for an agent lets no pod go whose policies it cannot know; its addresses are known on its own node, and
// elsewhere from its status.
type PolicyFiles []string

var _ PolicySource = PolicyFiles(nil)

// Model implements [PolicySource].
func (p PolicyFiles) Model(context.Context) (policy.Model, error) {
	var files []netpol.File
	var errs []error
	for _, path := range p {
		err := filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || name != path && !isYAML(name) {
				return err
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

// Watch implements [PolicySource].
func (p PolicyFiles) Watch(ctx context.Context, changed func()) error {
	return watchFiles(ctx, p, changed)
}
