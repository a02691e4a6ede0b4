package cniplugin

import (
	"errors"
	"io/fs"
	"net/netip"
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
	return locked(t.ctx, t.cfg.LockWait, t.state+"/ipam.lock", func() error {
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

// heldByHostLocal is one address that host-local has given.
type heldByHostLocal struct {
	attachment // whose IfName old versions did not write
	address    netip.Addr
	path       string
}

func (h heldByHostLocal) is(a attachment) bool {
	return h.ContainerID == a.ContainerID && (h.IfName == "" || h.IfName == a.IfName)
}

// heldOfHostLocal are the addresses of its directory of the network, as far as they can be read.
func (t *task) heldOfHostLocal() (all []heldByHostLocal) {
	entries, _ := os.ReadDir(t.hostLocalDir()) // none, nothing held
	for _, e := range entries {
		address, err := netip.ParseAddr(e.Name())
		if err != nil {
			continue
		}
		if h, ok := readHostLocal(filepath.Join(t.hostLocalDir(), e.Name())); ok {
			h.address = address
			all = append(all, h)
		}
	}
	return all
}

// readHostLocal reads a file of host-local's. What cannot be read names nobody.
func readHostLocal(path string) (h heldByHostLocal, ok bool) {
	raw, err := os.ReadFile(path)
	fields := strings.Fields(string(raw))
	if err != nil || len(fields) == 0 {
		return h, false
	}
	h.path, h.ContainerID = path, fields[0]
	if len(fields) > 1 {
		h.IfName = fields[1]
	}
	return h, true
}

// forgetHostLocal removes host-local's files of the addresses that were released, so that a way back stays open.
func (t *task) forgetHostLocal(held ipam.Allocation) error {
	var errs []error
	for _, a := range held.Addresses { // never imported, or another's by now
		if h, ok := readHostLocal(filepath.Join(t.hostLocalDir(), a.Prefix.Addr().String())); ok {
			errs = append(errs, t.forgetIfOurs(h))
		}
	}
	return errors.Join(errs...)
}

// forgetIfOurs removes a file of host-local's that names the call's attachment.
func (t *task) forgetIfOurs(h heldByHostLocal) error {
	if !h.is(attachment{t.container, t.ifname}) {
		return nil
	}
	if err := os.Remove(h.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(CodeIO, "host-local's file of the address cannot be removed", err)
	}
	return nil
}

// releaseFromHostLocal removes what the pod holds there, when its DEL comes before anything was imported.
func (t *task) releaseFromHostLocal() error {
	var errs []error
	for _, h := range t.heldOfHostLocal() {
		errs = append(errs, t.forgetIfOurs(h))
	}
	return errors.Join(errs...)
}
