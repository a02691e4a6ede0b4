package bgp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// memory is what was learned before the process restarted, as far as nobody has told anything newer.
type memory struct {
	paths []Path
	until time.Time // when what is still unconfirmed is forgotten
}

// note is the content of a state file.
type note struct {
	Boot  string `json:"boot"` // the machine's: after a reboot the kernel has none of these routes
	Paths []Path `json:"paths"`
}

// recall reads the state file. There is nothing to remember if it is absent, of an earlier boot, or damaged; restarting says
// that there was a process before us whose routes are still in the kernel.
func recall(file string, keep time.Duration) (m memory, restarting bool, err error) {
	if file == "" || keep == 0 {
		return memory{}, false, nil
	}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return memory{}, false, nil
	}
	var n note
	if err == nil {
		err = json.Unmarshal(raw, &n)
	}
	if err != nil {
		return memory{}, false, fmt.Errorf("recall paths from %s: %w", file, err)
	}
	if n.Boot != bootID() {
		return memory{}, false, nil
	}
	sound := func(p Path) bool { return p.Prefix.IsValid() && p.NextHop.IsValid() && p.Peer.IsValid() }
	for _, p := range n.Paths {
		if p.Stale = true; sound(p) {
			m.paths = append(m.paths, p)
		}
	}
	m.until = time.Now().Add(keep)
	return m, true, nil
}

// write replaces the state file, in one step. There is no fsync: a note of before a crash of the machine means nothing.
func write(file string, paths []Path) error {
	raw, err := json.Marshal(note{Boot: bootID(), Paths: paths})
	if err != nil {
		return err
	}
	temporary := filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+".new")
	if err := os.WriteFile(temporary, raw, 0o600); err != nil {
		return fmt.Errorf("remember paths: %w", err)
	}
	return os.Rename(temporary, file)
}

func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // empty where there is none: then a note outlives a reboot
	return string(bytes.TrimSpace(id))
}

// forget drops what need not be remembered any more: paths from peers that are gone, or that have told everything.
func (m *memory) forget(now time.Time, settled func(peer netip.Addr, v4 bool) bool) {
	if now.After(m.until) {
		m.paths = nil
	}
	m.paths = slices.DeleteFunc(m.paths, func(p Path) bool { return settled(p.Peer, p.Prefix.Addr().Is4()) })
}

// add returns the learned paths, sorted, and the remembered ones to prefixes that no learned one leads to and that are not
// ours.
func (m *memory) add(learned []Path, own func(netip.Prefix) bool) []Path {
	slices.SortFunc(learned, comparePaths)
	n := len(learned)
	for _, p := range m.paths {
		if _, fresh := slices.BinarySearchFunc(learned[:n], p, comparePaths); !fresh && !own(p.Prefix) {
			learned = append(learned, p)
		}
	}
	slices.SortFunc(learned, comparePaths)
	return learned
}

// notes keeps the state file up to date, and the disk in peace.
type notes struct {
	file    string
	paths   []Path
	dirty   bool
	written time.Time
}

func (n *notes) take(paths []Path) {
	if n.file != "" && (n.written.IsZero() || !slices.EqualFunc(n.paths, paths, Path.equal)) {
		n.paths, n.dirty = paths, true
	}
}

// due is when write has something to do.
func (n *notes) due() time.Duration {
	if !n.dirty {
		return neverAgain
	}
	return max(0, noteEvery-time.Since(n.written))
}

func (n *notes) write() error {
	if n.due() > 0 {
		return nil
	}
	return n.flush()
}

func (n *notes) flush() error {
	if !n.dirty {
		return nil
	}
	n.written = time.Now()
	err := write(n.file, n.paths)
	n.dirty = err != nil
	return err
}
