package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/podweft/podweft/subnet"
)

// loadState returns the lease that was saved, or an empty one when none was. A file that cannot be understood counts as
// none: what is in it is only a preference.
func loadState(path string) (subnet.Lease, error) {
	var l subnet.Lease
	if path == "" {
		return l, nil
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &l)
	}
	if err != nil {
		return subnet.Lease{}, fmt.Errorf("state file %s: %w", path, err)
	}
	return l, nil
}

// saveState replaces the file as a whole. Its directory may not be there yet: /run is empty after a boot.
func saveState(path string, l *subnet.Lease) error {
	if path == "" {
		return nil
	}
	raw, err := json.MarshalIndent(l, "", "\t")
	if err != nil {
		return fmt.Errorf("state file %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already when it was renamed
	_, err = tmp.Write(append(raw, '\n'))
	if err = errors.Join(err, tmp.Close()); err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	return os.Rename(tmp.Name(), path)
}
