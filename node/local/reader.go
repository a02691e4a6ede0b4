package local

import (
	"os"
	"sync"
	"time"
)

// Reader lists Records again and again, as an agent does whenever one has changed, and reads a file only if it is not the one it has
// read before. It is safe for concurrent use.
type Reader struct {
	records *Records

	mu   sync.Mutex
	read map[string]reading // by path
}

// reading is what a file has said that could be read. What keeps one from being read may pass.
type reading struct {
	file os.FileInfo
	rec  Record
}

// settled is how old a file must be before its times tell it from one that is written later: the kernel's clock for files may stand
// still for a tick, 10 ms at most (current_time in fs/inode.c).
const settled = 50 * time.Millisecond

// NewReader returns a Reader of records.
func NewReader(records *Records) *Reader {
	return &Reader{records: records, read: map[string]reading{}}
}

// All is [Records.All].
func (r *Reader) All(network string) (all []Record, problems []error, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]bool{}
	all, problems, err = r.records.all(network, func(path string) (Record, error) {
		seen[path] = true
		return r.at(path)
	})
	if network == "" && err == nil {
		for path := range r.read {
			if !seen[path] {
				delete(r.read, path)
			}
		}
	}
	return all, problems, err
}

func same(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// at reads a file, or remembers it.
func (r *Reader) at(path string) (Record, error) {
	now := time.Now()
	file, err := os.Stat(path)
	if last, ok := r.read[path]; ok && err == nil && same(file, last.file) {
		return last.rec, nil
	}
	delete(r.read, path)
	rec, readErr := r.records.read(path)
	if err == nil && readErr == nil && now.Sub(file.ModTime()) > settled {
		r.read[path] = reading{file, rec}
	}
	return rec, readErr
}
