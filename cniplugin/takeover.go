package cniplugin

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/ipam"
)

// defaultHostLocalDir is where host-local keeps a directory for each network.
const defaultHostLocalDir = "/var/lib/cni/networks"

func (t *task) hostLocalDir() string {
	dir := t.config.IPAM.DataDir
	if dir == "" {
		dir = defaultHostLocalDir
	}
	return filepath.Join(dir, t.config.Name)
}

// importedMark ends the name of the file which says that a network was taken over.
const importedMark = ".imported"

// takeOver imports what pods hold that host-local has given addresses, before the first one is given here. A mark that goes
// with the boot says that this was done: host-local's directory outlives its pods, so it counts only while some may run.
func (t *task) takeOver(pool *ipam.Pool) error {
	mark := t.state + "/ipam/" + t.config.Name + importedMark
	if _, err := os.Stat(mark); err == nil {
		return nil
	}
	return locked(t.ctx, t.state+"/ipam.lock", func() error {
		if _, err := os.Stat(mark); err == nil {
			return nil
		}
		if err := t.importAddresses(pool); err != nil {
			return err
		}
		if err := os.WriteFile(mark, nil, 0o600); err != nil {
			return fail(CodeIO, "the import from host-local cannot be noted", err)
		}
		return nil
	})
}

func (t *task) importAddresses(pool *ipam.Pool) error {
	if _, err := os.Stat(t.hostLocalDir()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	inhabited, err := t.inhabited()
	if err != nil || !inhabited {
		return err
	}
	imported, problems, err := pool.ImportHostLocal(t.ctx, t.hostLocalDir(), t.config.Name)
	for _, p := range problems {
		t.log.WarnContext(t.ctx, "address not taken over", "err", p)
	}
	t.log.InfoContext(t.ctx, "addresses taken over from host-local", "count", len(imported))
	return err
}

// inhabited reports whether the bridge has ports. Without any, no pod of host-local's runs: it was a reboot that ended them.
func (t *task) inhabited() (bool, error) {
	conn, err := nl.Dial(t.cfg.NetNS)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	name := t.config.Bridge
	if name == "" {
		name = bridge.DefaultName
	}
	br, err := conn.Link(name)
	if errors.Is(err, nl.ErrNoLink) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	all, err := conn.Links()
	return slices.ContainsFunc(all, func(l nl.Link) bool { return l.Master == br.Index }), err
}

// forgetHostLocal removes host-local's files of the addresses that were released, so that a way back stays open.
func (t *task) forgetHostLocal(held ipam.Allocation) error {
	for _, a := range held.Addresses {
		path := filepath.Join(t.hostLocalDir(), a.Prefix.Addr().String())
		if err := t.forgetIfOurs(path); err != nil { // never imported, or another's by now
			return err
		}
	}
	return nil
}

// forgetIfOurs removes a file of host-local's that names the call's attachment.
func (t *task) forgetIfOurs(path string) error {
	raw, err := os.ReadFile(path)
	fields := strings.Fields(string(raw))
	if err != nil || len(fields) == 0 || fields[0] != t.container || len(fields) > 1 && fields[1] != t.ifname {
		return nil //nolint:nilerr // what cannot be read names nobody
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(CodeIO, "host-local's file of the address cannot be removed", err)
	}
	return nil
}

// releaseFromHostLocal removes what the pod holds there, when its DEL comes before anything was imported.
func (t *task) releaseFromHostLocal() error {
	entries, err := os.ReadDir(t.hostLocalDir())
	if err != nil {
		return nil //nolint:nilerr // no directory, nothing held
	}
	for _, e := range entries {
		if err := t.forgetIfOurs(filepath.Join(t.hostLocalDir(), e.Name())); err != nil {
			return err
		}
	}
	return nil
}
