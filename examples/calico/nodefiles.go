package calico

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// NodeFiles is a [Directory] in a directory that processes of one machine share, a file for each node: for laboratories whose nodes
// are processes in namespaces of their own.
type NodeFiles struct{ dir string }

var _ Directory = (*NodeFiles)(nil)

// nodeSuffix ends the name of a node's file.
const nodeSuffix = ".json"

// lookInterval is how often files are looked at for changes.
const lookInterval = 200 * time.Millisecond

// NewNodeFiles returns the Directory in dir, which it makes if there is none.
func NewNodeFiles(dir string) (*NodeFiles, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("directory of nodes: %w", err)
	}
	return &NodeFiles{dir}, nil
}

func (d *NodeFiles) path(name string) string {
	return filepath.Join(d.dir, url.PathEscape(name)+nodeSuffix)
}

// Put implements [Directory].
func (d *NodeFiles) Put(_ context.Context, n Node) error {
	raw, err := json.Marshal(n)
	if err == nil {
		err = replaceFile(d.path(n.Name), raw, 0o644)
	}
	if err != nil {
		return fmt.Errorf("tell of node %s: %w", n.Name, err)
	}
	return nil
}

// Remove implements [Directory].
func (d *NodeFiles) Remove(_ context.Context, name string) error {
	if err := os.Remove(d.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove node %s: %w", name, err)
	}
	return nil
}

// Nodes implements [Directory].
func (d *NodeFiles) Nodes(context.Context) (all []Node, problems []error, err error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("list nodes: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), nodeSuffix) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		n, err := d.read(filepath.Join(d.dir, e.Name()))
		switch {
		case err == nil:
			all = append(all, n)
		case !errors.Is(err, fs.ErrNotExist): // gone since it was listed
			problems = append(problems, fmt.Errorf("node in %s: %w", e.Name(), err))
		}
	}
	slices.SortFunc(all, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	return all, problems, nil
}

func (d *NodeFiles) read(path string) (n Node, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return n, err
	}
	if err := json.Unmarshal(raw, &n); err != nil {
		return n, err
	}
	if d.path(n.Name) != path {
		return n, fmt.Errorf("it is of %q", n.Name)
	}
	return n, nil
}

// Watch implements [Directory].
func (d *NodeFiles) Watch(ctx context.Context, changed func()) error {
	return watchFiles(ctx, []string{d.dir}, changed)
}

// watchFiles calls changed at once, and whenever files, or those in directories, have other names, sizes or times than before.
func watchFiles(ctx context.Context, paths []string, changed func()) error {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	last := "-"
	for {
		if now := lookAt(paths); now != last {
			last = now
			changed()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// lookAt is what of files tells whether they have changed.
func lookAt(paths []string) string {
	var b strings.Builder
	for _, path := range paths {
		_ = filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
			if err != nil {
				return nil //nolint:nilerr // gone: that is a change too
			}
			if info, err := e.Info(); err == nil && !info.IsDir() {
				fmt.Fprintln(&b, p, info.Size(), info.ModTime().UnixNano())
			}
			return nil
		})
	}
	return b.String()
}

// replaceFile gives a file new contents at one stroke.
func replaceFile(path string, raw []byte, mode fs.FileMode) error {
	draft, err := os.CreateTemp(filepath.Dir(path), ".new*")
	if err != nil {
		return err
	}
	_, err = draft.Write(raw)
	if closeErr := draft.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Chmod(draft.Name(), mode)
	}
	if err == nil {
		err = os.Rename(draft.Name(), path)
	}
	if err != nil {
		_ = os.Remove(draft.Name())
	}
	return err
}
