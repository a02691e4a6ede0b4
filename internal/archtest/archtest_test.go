package archtest

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The module as it is.
func TestHouse(t *testing.T) {
	top, err := filepath.Abs("../..")
	require.NoError(t, err)
	sources, err := readSources(top, slices.Collect(maps.Keys(ours.users)))
	require.NoError(t, err)
	packages, err := list(top)
	require.NoError(t, err)
	needs := closures(packages)

	for _, s := range sources {
		if needed, own := needs[s.dir]; own && !slices.Contains(strings.Split(s.dir, "/"), "internal") {
			t.Logf("%-16s brings %s", s.dir, listOf(needed))
		}
	}
	for _, problem := range ours.problems(sources, needs) {
		t.Error(problem)
	}
}

// A house small enough to break each rule once.
var toy = house{
	rooms: map[string]room{
		root:              {},
		"addresses":       {may: []string{root}, brings: []string{"example.com/sys"}},
		"tunnel":          {may: []string{root, internal}, brings: []string{"example.com/link", "example.com/sys"}},
		"route":           {may: []string{root, internal}, brings: []string{"example.com/link", "example.com/sys"}},
		"internal/kernel": {may: []string{root}, brings: []string{"example.com/link", "example.com/sys"}},
		"examples/...":    {may: []string{public}},
	},
	importers: map[string][]string{"example.com/link": {"internal/kernel"}},
	users:     map[string][]string{"Setns": {"internal/kernel"}},
}

func TestProblems(t *testing.T) {
	tests := []struct {
		name  string
		found source
		needs []string
		want  string // "" = nothing to say
	}{
		{
			name:  "downwards",
			found: source{dir: "route", imports: []string{"net/netip", module, module + "/internal/kernel"}},
			needs: []string{"example.com/link"},
		},
		{
			name:  "sideways",
			found: source{dir: "route", imports: []string{module + "/tunnel"}},
			want:  "route imports tunnel: of the house it may import ., internal/... (rooms in " + table + ")",
		},
		{
			name:  "root imports nobody",
			found: source{dir: ".", imports: []string{module + "/addresses"}},
			want:  ". imports addresses: of the house it may import nothing (rooms in " + table + ")",
		},
		{
			name:  "not to the kernel",
			found: source{dir: "addresses", imports: []string{module + "/internal/kernel"}},
			want:  "addresses imports internal/kernel: of the house it may import . (rooms in " + table + ")",
		},
		{
			name:  "a name that begins like an allowed one",
			found: source{dir: "route", imports: []string{module + "/internals"}},
			want:  "route imports internals: of the house it may import ., internal/... (rooms in " + table + ")",
		},
		{
			name:  "heavy module, its importer",
			found: source{dir: "internal/kernel", imports: []string{"example.com/link/raw"}},
		},
		{
			name:  "heavy module, somebody else",
			found: source{dir: "tunnel", imports: []string{"example.com/link/raw"}},
			want:  "tunnel imports example.com/link/raw: that is for internal/kernel (importers in " + table + ")",
		},
		{
			name:  "enters a namespace, as it may",
			found: source{dir: "internal/kernel", names: map[string][]string{"Setns": {"internal/kernel/enter.go:3"}}},
		},
		{
			name:  "enters a namespace, somebody else",
			found: source{dir: "tunnel", names: map[string][]string{"Setns": {"tunnel/link.go:12", "tunnel/link.go:20"}}},
			want:  "tunnel uses Setns (tunnel/link.go:12, tunnel/link.go:20): that is for internal/kernel (users in " + table + ")",
		},
		{
			name:  "brings too much",
			found: source{dir: "addresses"},
			needs: []string{"example.com/link", "example.com/sys"},
			want:  "addresses brings the module example.com/link into every program that imports it: it may bring example.com/sys (rooms in " + table + ")",
		},
		{
			name:  "example, public packages and its own dependencies",
			found: source{dir: "examples/lab", imports: []string{module + "/tunnel", module + "/examples/internal/text", "example.com/flags"}},
		},
		{
			name:  "example, internal",
			found: source{dir: "examples/lab", imports: []string{module + "/internal/kernel"}},
			want:  "examples/lab imports internal/kernel: of the house it may import public (rooms in " + table + ")",
		},
		{
			name:  "new package",
			found: source{dir: "wireguard"},
			want:  "wireguard is a new package: add it to rooms in " + table + ", with the packages it may import and the modules it may bring",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var want []string
			if test.want != "" {
				want = []string{test.want}
			}
			got := toy.problems([]source{test.found}, map[string][]string{test.found.dir: test.needs})
			assert.Equal(t, want, got)
		})
	}
}

func TestClosures(t *testing.T) {
	of := func(path string) *struct{ Path string } { return &struct{ Path string }{path} }
	packages := map[string]listed{
		"net/netip":                {},
		module:                     {Module: of(module), Imports: []string{"net/netip"}},
		module + "/internal/nl":    {Module: of(module), Imports: []string{module, "example.com/link", "example.com/link/raw"}},
		module + "/hostgw":         {Module: of(module), Imports: []string{module, module + "/internal/nl"}},
		"example.com/link":         {Module: of("example.com/link"), Imports: []string{"example.com/sys"}},
		"example.com/link/raw":     {Module: of("example.com/link"), Imports: []string{"example.com/sys"}},
		"example.com/sys":          {Module: of("example.com/sys")},
		"example.com/not/ours/too": {Module: of("example.com/not")},
	}
	want := map[string][]string{
		".":           nil,
		"internal/nl": {"example.com/link", "example.com/sys"},
		"hostgw":      {"example.com/link", "example.com/sys"},
	}
	assert.Equal(t, want, closures(packages))
}

func TestReadSources(t *testing.T) {
	top := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(top, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	write("go.mod", "module "+module+"\n")
	write("top.go", "package top\n\nimport \"fmt\"\n")
	write("port/port.go", "package port\n\nimport (\n\tx \"golang.org/x/sys/unix\"\n\t\"fmt\"\n)\n\n// Setns in a comment is nobody's business.\nfunc enter() { fmt.Println(x.Setns(0, 0)) }\n")
	write("port/port_plan9.go", "//go:build plan9\n\npackage port\n\nimport \"os\"\n")
	write("port/port_test.go", "package port\n\nimport \"testing\"\n\nvar _ = x.Setns\n")
	write("port/testdata/broken.go", "not Go")
	write(".hidden/broken.go", "not Go")
	write("_old/broken.go", "not Go")
	write("nested/go.mod", "module "+module+"/nested\n")
	write("nested/cmd/main.go", "package main\n\nimport \""+module+"\"\n")

	got, err := readSources(top, []string{"Setns"})
	require.NoError(t, err)
	want := []source{
		{dir: ".", imports: []string{"fmt"}, names: map[string][]string{}},
		{dir: "nested/cmd", imports: []string{module}, names: map[string][]string{}},
		{dir: "port", imports: []string{"fmt", "golang.org/x/sys/unix", "os"}, names: map[string][]string{"Setns": {"port/port.go:9"}}},
	}
	assert.Equal(t, want, got)

	write("port/torn.go", "package")
	_, err = readSources(top, []string{"Setns"})
	assert.ErrorContains(t, err, "port/torn.go")
}
