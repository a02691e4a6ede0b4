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

// aside is appended to the name of a directory that was imported.
const aside = ".imported"

// Import is what became of another program's record of addresses.
type Import struct {
	// Taken are the allocations that were made, in the order of the addresses.
	Taken []Allocation
	// Problems are what was left out: a [*podweft.FieldError] for what makes no sense, [ErrTaken] for an address or an
	// owner that the Pool knows otherwise.
	Problems []error
}

// ImportHostLocal takes over what host-local, the IPAM plugin of the CNI reference set, has given out in a network. dataDir
// is that plugin's (by default /var/lib/cni/networks). The pods go on with the addresses they have: nobody else gets them,
// and Release frees them. All of it happens, or nothing.
//
// Afterwards the directory of the network bears the name that it had and ".imported", and no directory is no error: a CNI
// plugin can call this before whatever else it does, for the price of one stat(2). Make sure that host-local itself is not
// called any more (switch the network's configuration first); a call under way ends before the import begins.
//
// host-local does not say when the kernel was started that an address was given by, so the directory may hold addresses of
// pods that died with an earlier one. They are imported too, for [Pool.Collect] to free with proof.
func (p *Pool) ImportHostLocal(ctx context.Context, dataDir, network string) (Import, error) {
	var result Import
	if network == "." || network != filepath.Base(network) || !filepath.IsLocal(network) {
		return result, &podweft.FieldError{Field: "network", Value: network, Problem: "is not a name of a network"}
	}
	dir := filepath.Join(dataDir, network)
	err := lockedHostLocal(ctx, dir, func() error {
		leases, problems, err := readHostLocal(dir, network)
		if err != nil {
			return err
		}
		if result, err = p.take(ctx, leases); err != nil {
			return err
		}
		result.Problems = append(problems, result.Problems...)
		if err := os.RemoveAll(dir + aside); err != nil {
			return err
		}
		return os.Rename(dir, dir+aside)
	})
	if err != nil {
		return Import{}, fmt.Errorf("import from %s: %w", dir, err)
	}
	return result, nil
}

// lockedHostLocal runs fn with the directory locked as host-local locks it. Without a directory it does nothing.
func lockedHostLocal(ctx context.Context, dir string, fn func() error) error {
	for {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		f, err := os.OpenFile(filepath.Join(dir, hostLocalLock), os.O_RDONLY|os.O_CREATE, 0o640)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process has just imported it
		}
		if err != nil {
			return err
		}
		again, err := func() (again bool, err error) {
			defer f.Close() // gives the lock back
			id, err := idOf(f)
			if err != nil {
				return false, err
			}
			if err := flock.Lock(ctx, f); err != nil {
				return false, err
			}
			if !id.leadsTo(f.Name()) { // another process has imported it while we waited
				return true, nil
			}
			return false, fn()
		}()
		if !again {
			return err
		}
	}
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
