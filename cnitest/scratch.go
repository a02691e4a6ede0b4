package cnitest

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// scratch is a directory for what a runtime keeps of its calls. A run that is killed cannot remove its own, so each holds the
// lock of its directory, and removes those that nobody holds any more.
type scratch struct {
	path string
	held *os.File
}

const (
	scratchForm = "cnitest-*"
	scratchLife = time.Minute // by then a run has taken the lock of the directory that it made
)

func newScratch() (*scratch, error) {
	sweepScratch(os.TempDir())
	path, err := os.MkdirTemp("", scratchForm)
	if err != nil {
		return nil, err
	}
	s := &scratch{path: path}
	if s.held, err = os.Open(path); err == nil {
		err = unix.Flock(int(s.held.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		s.remove()
		return nil, err
	}
	return s, nil
}

func (s *scratch) remove() {
	_ = os.RemoveAll(s.path) // the next run will
	if s.held != nil {
		s.held.Close()
	}
}

// sweepScratch removes what runs that were killed have left in dir.
func sweepScratch(dir string) {
	all, _ := filepath.Glob(filepath.Join(dir, scratchForm)) // fails for a bad pattern only
	for _, path := range all {
		info, err := os.Stat(path)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < scratchLife {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue // another user's
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(path)
		}
		f.Close()
	}
}
