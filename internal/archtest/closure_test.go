package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// listed is what `go list` says of a package. Module is nil in the standard library.
type listed struct {
	ImportPath string
	Imports    []string
	Module     *struct{ Path string }
}

// list asks the go command for the packages of the module at top and for all that they need.
func list(top string) (map[string]listed, error) {
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,Module", "./...")
	cmd.Dir = top
	// What we build for, whatever machine this is; and never a go.mod rewritten by a test, which -mod=mod would do.
	cmd.Env = append(os.Environ(), "PWD="+top, "GOOS=linux", "CGO_ENABLED=0", "GOFLAGS=-mod=readonly")
	var refusal strings.Builder
	cmd.Stderr = &refusal
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", cmd, err, refusal.String())
	}
	packages := map[string]listed{}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", cmd, err)
		}
		packages[p.ImportPath] = p
	}
}

// closures returns, for each package of the house by its directory, the other modules that it needs, sorted.
func closures(packages map[string]listed) map[string][]string {
	needs := map[string][]string{}
	for path := range packages {
		dir, own := directory(path)
		if !own {
			continue
		}
		modules := map[string]bool{}
		walk(packages, path, map[string]bool{}, func(p listed) {
			if p.Module != nil && p.Module.Path != module {
				modules[p.Module.Path] = true
			}
		})
		needs[dir] = slices.Sorted(maps.Keys(modules))
	}
	return needs
}

// walk visits the package at path and, once each, all that it needs.
func walk(packages map[string]listed, path string, seen map[string]bool, visit func(listed)) {
	if seen[path] {
		return
	}
	seen[path] = true
	visit(packages[path])
	for _, next := range packages[path].Imports {
		walk(packages, next, seen, visit)
	}
}

// directory turns an import path of the house into its directory.
func directory(path string) (string, bool) {
	if path == module {
		return root, true
	}
	return strings.CutPrefix(path, module+"/")
}
