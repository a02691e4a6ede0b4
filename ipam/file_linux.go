package ipam

import (
	"os"

	"golang.org/x/sys/unix"
)

// fileID tells whether two descriptors or names are one file.
type fileID unix.Stat_t

func idOf(f *os.File) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fileID{}, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return fileID(st), nil
}

// leadsTo reports whether path still names the file. A missing path names none.
func (id *fileID) leadsTo(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Dev == id.Dev && st.Ino == id.Ino
}
