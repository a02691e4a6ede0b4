package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A source is what one package's files say, whatever their build constraints; its tests do not count.
type source struct {
	dir     string
	imports []string            // import paths, sorted
	names   map[string][]string // the watched names that it mentions, and where
}

// readSources reads every package below top, nested modules too, and looks out for the names watched.
//
// It opens each file itself, go.mod and go.sum included, instead of asking `go list` for everything: the go command keeps the
// result of a test for as long as the files that the test itself opened stay the same. What a child process reads it does
// not see; the test would go on passing from the cache after an import was added.
func readSources(top string, watched []string) ([]source, error) {
	byDir := map[string]*source{}
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		hidden := strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata"
		if entry.IsDir() {
			if path != top && hidden { // the directories that the go command skips
				return fs.SkipDir
			}
			return nil
		}
		isModule := name == "go.mod" || name == "go.sum" || name == "go.work"
		isCode := filepath.Ext(name) == ".go" && !strings.HasSuffix(name, "_test.go") && !hidden
		if !isModule && !isCode {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil || isModule {
			return err
		}
		dir, err := filepath.Rel(top, filepath.Dir(path))
		if err != nil {
			return err
		}
		dir = filepath.ToSlash(dir)
		if byDir[dir] == nil {
			byDir[dir] = &source{dir: dir, names: map[string][]string{}}
		}
		return byDir[dir].add(filepath.Join(dir, name), text, watched)
	})
	if err != nil {
		return nil, err
	}
	var sources []source
	for _, s := range byDir {
		slices.Sort(s.imports)
		s.imports = slices.Compact(s.imports)
		sources = append(sources, *s)
	}
	slices.SortFunc(sources, func(a, b source) int { return strings.Compare(a.dir, b.dir) })
	return sources, nil
}

// add reads one file of the package.
func (s *source) add(name string, text []byte, watched []string) error {
	positions := token.NewFileSet()
	file, err := parser.ParseFile(positions, name, text, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, spec := range file.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return fmt.Errorf("%s: import %s: %w", name, spec.Path.Value, err)
		}
		s.imports = append(s.imports, path)
	}
	ast.Inspect(file, func(node ast.Node) bool {
		if ident, ok := node.(*ast.Ident); ok && slices.Contains(watched, ident.Name) {
			at := positions.Position(ident.Pos())
			s.names[ident.Name] = append(s.names[ident.Name], fmt.Sprintf("%s:%d", at.Filename, at.Line))
		}
		return true
	})
	return nil
}
