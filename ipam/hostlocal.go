package ipam

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/flock"
)

// The names in a directory of host-local that are no addresses.
const (
	hostLocalLock   = "lock"
	hostLocalCursor = "last_reserved_ip." // and the number of a set
)

// ImportHostLocal takes over what host-local, the IPAM plugin of the CNI reference set, has given out: dir is its directory of
// one network, such as /var/lib/cni/networks/cbr0. The pods go on with the addresses they have, also where these are in none
// of the ranges: nobody else gets them, and Release frees them. All of it happens, or nothing; a call of host-local that is
// under way ends first. The directory stays as it is, and where there is none nothing is held.
//
// Problems are what was left out: a [*podweft.FieldError] for what makes no sense, [ErrTaken] for an address or an owner that
// the Pool knows otherwise. What it knows alike is no problem, so that a call which died can be repeated.
//
// Call it once, before the first address is given: later it would bring back what was released since, unless the released
// addresses' files were removed too. And call it only while pods of the directory may run, since that outlives a reboot and
// they do not; what it holds of pods that died in this boot [Pool.Collect] frees, with proof.
func (p *Pool) ImportHostLocal(ctx context.Context, dir, network string) (imported []Allocation, problems []error, err error) {
	err = p.lockedHostLocal(ctx, dir, func() error {
		leases, unread, err := readHostLocal(dir, network)
		if err != nil {
			return err
		}
		imported, problems, err = p.take(ctx, leases)
		problems = append(unread, problems...)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("import from host-local: %w", err)
	}
	return imported, problems, nil
}

// lockedHostLocal runs fn with the directory locked as host-local locks it: whoever uses the directory has made the lock.
// Without a directory it does nothing.
func (p *Pool) lockedHostLocal(ctx context.Context, dir string, fn func() error) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	f, err := os.Open(filepath.Join(dir, hostLocalLock))
	if errors.Is(err, fs.ErrNotExist) {
		return fn()
	}
	if err != nil {
		return err
	}
	defer f.Close() // gives the lock back
	patient, cancel := p.store.patiently(ctx)
	defer cancel()
	if err := flock.Lock(patient, f); err != nil {
		return err
	}
	return fn()
}

// lease is who has an address, by another program's word.
type lease struct {
	file  string
	owner Owner
	addr  netip.Addr
	since time.Time
}

// readHostLocal reads a directory of files that are named by an address and hold, in two lines, the container and the
// interface. Files that old versions wrote hold the container only; their pods have one interface, which was eth0 then.
//
// An empty file is the work of a process that died before it could say whom it gave the address to, or of a power loss:
// nobody has that address.
func readHostLocal(dir, network string) (leases []lease, problems []error, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		name := e.Name()
		if name == hostLocalLock || strings.HasPrefix(name, hostLocalCursor) {
			continue
		}
		path := filepath.Join(dir, name)
		addr, err := netip.ParseAddr(name)
		if err != nil || addr.Zone() != "" || addr.Is4In6() {
			problems = append(problems, &podweft.FieldError{Field: path, Problem: "is not named by an address"})
			continue
		}
		owner, since, err := readHostLocalFile(path, network)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		leases = append(leases, lease{path, owner, addr, since})
	}
	return leases, problems, nil
}

func readHostLocalFile(path, network string) (o Owner, since time.Time, err error) {
	f, err := os.Open(path)
	if err != nil {
		return o, since, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return o, since, err
	}
	const enough = 4 << 10 // bytes for any names that CNI allows
	text := make([]byte, min(info.Size(), enough))
	n, err := f.ReadAt(text, 0)
	if err != nil && n < len(text) {
		return o, since, err
	}
	container, iface, _ := strings.Cut(string(text[:n]), "\n")
	o = Owner{Network: network, Container: strings.TrimSpace(container), Interface: strings.TrimSpace(iface)}
	if o.Interface == "" {
		o.Interface = "eth0"
	}
	if o.Container == "" {
		return o, since, &podweft.FieldError{Field: path, Problem: "names no container", Remedy: "its pod was never started"}
	}
	return o, info.ModTime(), nil
}
