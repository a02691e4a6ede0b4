package calico

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// lookInterval is how often files are looked at for changes.
const lookInterval = 200 * time.Millisecond

// watchFiles calls changed at once, and whenever files, or those in directories, have other names, sizes or times than before.
func watchFiles(ctx context.Context, paths []string, changed func()) {
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
			return
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
