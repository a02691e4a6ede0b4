package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// ErrNoRecord: there is no record of that attachment, or none of this boot.
var ErrNoRecord = errors.New("no record of this attachment")

// ErrUnread: a record is there and cannot be read now, as when the process or the node has too many files open. What it says is not known,
// and neither is that it says nothing: who acts on what the records lack must not act.
var ErrUnread = errors.New("record not read")

// Records is a directory of attachment records, DIR/NETWORK:CONTAINER:INTERFACE. It is safe for concurrent use, by many
// processes; two that write the same record are as if one came after the other.
type Records struct {
	dir  string
	boot string
}

const (
	// separator stands between the parts of a key in a file's name. No part may hold it.
	separator = ":"
	// draft begins the name of a file that is being written; no record's does.
	draft = ".new"
	// draftLife is longer than any writer takes, and then some: what is older was left by one that was killed.
	draftLife = time.Minute
)

// Open names the directory, which Put creates. boot is the ID of the kernel's life; empty means the running one's.
func Open(dir, boot string) (*Records, error) {
	if dir == "" {
		return nil, &podweft.FieldError{Field: "dir", Problem: "is missing", Remedy: "name the directory of the records"}
	}
	if boot == "" {
		id, err := os.ReadFile("/proc/sys/kernel/random/boot_id") // random(4)
		if err != nil {
			return nil, fmt.Errorf("open records: %w", err)
		}
		boot = strings.TrimSpace(string(id))
	}
	return &Records{dir: dir, boot: boot}, nil
}

// Boot is the ID of the kernel's life that records are of.
func (r *Records) Boot() string { return r.boot }

func (r *Records) path(k Key) string {
	return filepath.Join(r.dir, k.Network+separator+k.Container+separator+k.Interface)
}

// Put writes rec in place of the one of its key.
func (r *Records) Put(rec Record) error {
	if err := rec.Validate(); err != nil {
		return fmt.Errorf("record of %s: %w", rec.Key(), err)
	}
	rec.Boot = r.boot
	if rec.Since.IsZero() {
		rec.Since, rec.Uptime = time.Now().UTC(), uptime()
	}
	if err := r.write(r.path(rec.Key()), rec.encode()); err != nil {
		return fmt.Errorf("record of %s: %w", rec.Key(), err)
	}
	return nil
}

// uptime is by the clock that goes on while the machine sleeps, as package ipam's does, so that it never goes back.
func uptime() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // only for a clock the kernel does not know; this one exists since 2.6.39
	}
	return uint64(ts.Nano())
}

// Probe reports why no record can be written, as on a disk that is full, by beginning one.
func (r *Records) Probe() error {
	f, err := r.create()
	if err != nil {
		return fmt.Errorf("write records: %w", err)
	}
	_, err = f.Write([]byte{'{'}) // an empty file takes no room
	if err = errors.Join(err, f.Close(), os.Remove(f.Name())); err != nil {
		return fmt.Errorf("write records: %w", err)
	}
	return nil
}

// write replaces the file. Nothing waits for a disk: after a power loss the record is void whatever became of it.
func (r *Records) write(path string, raw []byte) error {
	f, err := r.create()
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // Sweep will
	}
	return err
}

func (r *Records) create() (*os.File, error) {
	f, err := os.CreateTemp(r.dir, draft+"*")
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, err
	}
	return os.CreateTemp(r.dir, draft+"*")
}

// Get returns the record of k, or [ErrNoRecord], or [ErrUnread], or what is wrong with it.
func (r *Records) Get(k Key) (Record, error) {
	err := k.Validate()
	var rec Record
	if err == nil {
		rec, err = r.read(r.path(k))
	}
	if err != nil {
		return Record{}, fmt.Errorf("record of %s: %w", k, err)
	}
	return rec, nil
}

// read reads the record in a file.
func (r *Records) read(path string) (Record, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, ErrNoRecord
	}
	if errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ELOOP) {
		return Record{}, err // no record, and none that will be read
	}
	if err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrUnread, err)
	}
	rec, err := decodeRecord(raw)
	switch {
	case err != nil:
		return Record{}, err
	case r.path(rec.Key()) != path:
		return Record{}, fmt.Errorf("it is of %s", rec.Key())
	case rec.Boot != r.boot:
		return Record{}, ErrNoRecord
	}
	return rec, nil
}

// Remove removes the record of k. One that is gone is no error.
func (r *Records) Remove(k Key) error {
	err := k.Validate()
	if err == nil {
		err = remove(r.path(k))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("record of %s: %w", k, err)
	}
	return nil
}

// remove is os.Remove, but for what it says where nothing is: the kernel refuses to remove from a file system that is read-only before it
// looks (do_unlinkat in fs/namei.c).
func remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, syscall.EROFS) {
		if _, gone := os.Lstat(path); gone != nil {
			return gone
		}
	}
	return err
}

// All returns the records of a network, or of every network when it is empty, sorted by key. What makes no sense as one is
// left out and is among the problems; with one that cannot be read there is no list ([ErrUnread]).
func (r *Records) All(network string) (all []Record, problems []error, err error) {
	return r.all(network, r.read)
}

// all is All, which reads each file by read.
func (r *Records) all(network string, read func(path string) (Record, error)) (all []Record, problems []error, err error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("list records: %w", err)
	}
	for _, e := range entries {
		of, _, _ := strings.Cut(e.Name(), separator)
		if strings.HasPrefix(e.Name(), draft) || network != "" && of != network {
			continue
		}
		path := filepath.Join(r.dir, e.Name())
		rec, err := read(path)
		switch {
		case err == nil:
			all = append(all, rec)
		case errors.Is(err, ErrUnread):
			return nil, nil, fmt.Errorf("list records: %w", err)
		case !errors.Is(err, ErrNoRecord): // gone since it was listed, or of another boot
			problems = append(problems, fmt.Errorf("record in %s: %w", path, err))
		}
	}
	slices.SortFunc(all, func(a, b Record) int { return a.Key().compare(b.Key()) })
	return all, problems, nil
}

// Sweep removes what nobody else will: records of earlier boots, and what writers that were killed left behind. An agent
// does it when it starts. Files that are no records stay, for All to report.
func (r *Records) Sweep() error {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep records: %w", err)
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(r.dir, e.Name())
		if !r.isLeftover(e, path) {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("sweep records: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (r *Records) isLeftover(e fs.DirEntry, path string) bool {
	if strings.HasPrefix(e.Name(), draft) {
		info, err := e.Info()
		return err == nil && time.Since(info.ModTime()) > draftLife
	}
	_, err := r.read(path)
	return errors.Is(err, ErrNoRecord)
}
