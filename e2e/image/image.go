// Package image makes an image for containers of a directory's files, as `docker save` writes one: there is no registry to ask and no
// builder to run where tests are. It knows one layer, and no architecture but its own.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// Config is what the image says of itself, as a Dockerfile does.
type Config struct {
	Env        []string
	Entrypoint []string
	Cmd        []string
}

// Write writes the image of dir's files, under a name that containers use, to the file at path.
func Write(path, name, dir string, cfg Config) error {
	layer, err := layer(dir)
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": cfg,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(layer)}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]any{map[string]any{"Config": sum(config) + ".json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	var all bytes.Buffer
	w := tar.NewWriter(&all)
	for _, file := range []struct {
		name string
		text []byte
	}{{"layer.tar", layer}, {sum(config) + ".json", config}, {"manifest.json", manifest}} {
		if err := w.WriteHeader(&tar.Header{Name: file.name, Mode: 0o644, Size: int64(len(file.text))}); err != nil {
			return err
		}
		if _, err := w.Write(file.text); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, all.Bytes(), 0o600)
}

// layer is dir's files, which are root's and have no times: what is the same has the same name.
func layer(dir string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		return add(w, dir, path, entry)
	})
	if err != nil {
		return nil, err
	}
	return b.Bytes(), w.Close()
}

func add(w *tar.Writer, dir, path string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	if header.Name, err = filepath.Rel(dir, path); err != nil {
		return err
	}
	header.Uid, header.Gid, header.Uname, header.Gname, header.ModTime = 0, 0, "", "", time.Time{}
	if err := w.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
