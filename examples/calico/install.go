package calico

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// installation is what container runtimes are to find on the node, which the agent's image brings.
type installation struct{ plugin, binDir string }

// run puts the plugin where container runtimes look for it, and makes it their loopback where the node has none.
func (i *installation) run(_ context.Context, out io.Writer) error {
	to := filepath.Join(i.binDir, "podweft-cni")
	program, err := os.ReadFile(i.plugin)
	if err == nil {
		err = os.MkdirAll(i.binDir, 0o755)
	}
	if err == nil {
		err = replaceFile(to, program, 0o755)
	}
	if err == nil {
		err = os.Symlink("podweft-cni", filepath.Join(i.binDir, "loopback"))
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("install the CNI plugin: %w", err)
	}
	_, _ = fmt.Fprintln(out, "+ file", to)
	return nil
}
