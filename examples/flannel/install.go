package flannel

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/podweft/podweft"
)

// cniOptions say what container runtimes are to find on the node, which the daemon's image brings.
type cniOptions struct {
	plugin, binDir string
	source, list   string
}

func (c *cniOptions) flags(f *flag.FlagSet) {
	f.StringVar(&c.plugin, "cni-plugin", "/flannel", "install: the CNI plugin to install")
	f.StringVar(&c.binDir, "cni-bin-dir", "/opt/cni/bin", "install: where container runtimes look for plugins")
	f.StringVar(&c.source, "cni-conf-source", "", "CNI configuration to install when pods can be started: a kube-flannel.yml's cni-conf.json; default: none")
	f.StringVar(&c.list, "cni-conf-file", "/etc/cni/net.d/10-flannel.conflist", "where to install it")
}

// install puts the plugin where container runtimes look for it: as flannel, and as portmap and loopback where the node has none.
func (c *cniOptions) install() error {
	if err := copyFile(c.plugin, filepath.Join(c.binDir, "flannel")); err != nil {
		return fmt.Errorf("install the CNI plugin: %w", err)
	}
	for _, name := range [...]string{"portmap", "loopback"} {
		err := os.Symlink("flannel", filepath.Join(c.binDir, name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("install the CNI plugin: %w", err)
		}
	}
	return nil
}

// configure installs the configuration, which makes the node Ready. It comes last: a pod that is started before the subnet file is
// there fails, and a runtime tries it again only after a while.
func (c *cniOptions) configure() error {
	if c.source == "" {
		return nil
	}
	if err := copyFile(c.source, c.list); err != nil {
		return fmt.Errorf("--cni-conf-source: %w", err)
	}
	return nil
}

// Copy is cp SOURCE DESTINATION, which manifests for flannel run in flannel's image to install files: it copies one file, with its
// mode, and readers of the destination see the old or the new one. -f is its way anyhow. It returns the exit status.
func Copy(args []string, stderr io.Writer) int {
	f := flag.NewFlagSet("cp", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Bool("f", true, "replace the destination")
	if err := f.Parse(args); err != nil {
		return 2
	}
	if f.NArg() != 2 {
		_, _ = fmt.Fprintln(stderr, "cp: give one source and one destination")
		return 2
	}
	to := f.Arg(1)
	if info, err := os.Stat(to); err == nil && info.IsDir() {
		to = filepath.Join(to, filepath.Base(f.Arg(0)))
	}
	if err := copyFile(f.Arg(0), to); err != nil {
		_, _ = fmt.Fprintln(stderr, "cp:", err)
		return 1
	}
	return 0
}

// copyFile gives the file at to the contents and the mode of the one at from, at one stroke.
func copyFile(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return &podweft.FieldError{Field: from, Problem: "is not a file"}
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	draft, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(draft.Name()) }() // gone already when it was renamed
	_, err = io.Copy(draft, source)
	if err = cmp.Or(err, draft.Chmod(info.Mode().Perm()), draft.Close()); err != nil {
		return err
	}
	return os.Rename(draft.Name(), to)
}
