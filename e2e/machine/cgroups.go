package machine

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/stretchr/testify/require"
)

// controlGroup is what the machine's control groups are called. They know no namespaces of ours, so the name has the number of its
// network's, which no other machine has that is there at the same time.
func controlGroup(cfg Config) (string, error) {
	var of syscall.Stat_t
	if err := syscall.Stat(cfg.Node.NetNS(), &of); err != nil {
		return "", err
	}
	return fmt.Sprintf("/podweft-%s-%d", cfg.Name, of.Ino), nil
}

// hierarchies are the directories of cgroup v1, one for each controller.
func (m *Machine) hierarchies() []string {
	m.t.Helper()
	all, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	require.NoError(m.t, err)
	for i, file := range all {
		all[i] = filepath.Dir(file)
	}
	return all
}

// makeGroups makes the machine's, which may use the same processors and memory as the real one: nothing starts in a group of the
// cpuset controller that does not say so.
func (m *Machine) makeGroups() {
	m.t.Helper()
	for _, hierarchy := range m.hierarchies() {
		dir := hierarchy + m.group
		require.NoError(m.t, os.MkdirAll(dir, 0o755))
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			text, err := os.ReadFile(filepath.Join(hierarchy, file))
			if os.IsNotExist(err) {
				continue
			}
			require.NoError(m.t, err)
			require.NoError(m.t, os.WriteFile(filepath.Join(dir, file), text, 0o644))
		}
	}
}

// removeGroups removes the machine's.
func (m *Machine) removeGroups() {
	for _, hierarchy := range m.hierarchies() {
		await(m.t, func() error { return removeTree(hierarchy + m.group) })
	}
}

// removeTree removes directories from below. Their files are the kernel's.
func removeTree(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for _, dir := range slices.Backward(dirs) {
		if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}
