package xtables_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/xtables"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

func TestInUse(t *testing.T) {
	if _, err := exec.LookPath(string(xtables.IPv6)); err != nil {
		if os.Getenv("PODWEFT_REQUIRE_KERNEL") == "1" {
			require.NoError(t, err, "apt install iptables")
		}
		t.Skip(err)
	}
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock")) // an ordinary user may not open the host's
	n := testnet.NewNode(t, "host")
	for _, family := range []xtables.Family{xtables.IPv4, xtables.IPv6} {
		used, err := xtables.InUse(n.NetNS(), family, "filter")
		require.NoError(t, err)
		require.False(t, used, "nobody has asked for it")
		_, err = xtables.Run(t.Context(), n.NetNS(), family, "-A", "FORWARD", "-m", "comment", "--comment", `a "b" \ c`, "-j", "ACCEPT")
		require.NoError(t, err)
		used, err = xtables.InUse(n.NetNS(), family, "filter")
		require.NoError(t, err)
		assert.True(t, used)
		used, err = xtables.InUse(n.NetNS(), family, "nat")
		require.NoError(t, err)
		assert.False(t, used)
		text, err := xtables.Run(t.Context(), n.NetNS(), family, "-S", "FORWARD")
		require.NoError(t, err)
		lines := strings.Split(strings.TrimSpace(text), "\n")
		require.Len(t, lines, 2, text)
		assert.Equal(t, []string{"-P", "FORWARD", "ACCEPT"}, xtables.Words(lines[0]))
		rule := xtables.Words(lines[1])
		assert.Equal(t, []string{"-A", "FORWARD", "-m", "comment", "--comment", `a "b" \ c`, "-j", "ACCEPT"}, rule)
		rule[0] = "-D"
		_, err = xtables.Run(t.Context(), n.NetNS(), family, rule...)
		require.NoError(t, err, "what it says can be said to it")
		_, err = xtables.Run(t.Context(), n.NetNS(), family, "-A", "NOWHERE", "-j", "ACCEPT")
		require.ErrorContains(t, err, string(family)+" -A NOWHERE")
	}
	t.Setenv("PATH", t.TempDir())
	_, err := xtables.Run(t.Context(), n.NetNS(), xtables.IPv4, "-S")
	require.ErrorIs(t, err, xtables.ErrNoProgram)
}

func TestWords(t *testing.T) {
	for _, tt := range []struct {
		name, line string
		want       []string
	}{
		{"nothing", " \n", nil},
		{"words", "-j  ACCEPT\n", []string{"-j", "ACCEPT"}},
		{"a comment", `--comment "flanneld masq" -j X`, []string{"--comment", "flanneld masq", "-j", "X"}},
		{"an empty text", `a "" b`, []string{"a", "", "b"}},
		{"quotes in a text", `"a \"b\" \\ \'c\'"`, []string{`a "b" \ 'c'`}},
		{"no end", `"a b`, []string{"a b"}},
	} {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, xtables.Words(tt.line)) })
	}
}

func TestRemoval(t *testing.T) {
	const rules = `-P POSTROUTING ACCEPT
-N GONE
-N GONE-TOO
-N STAYS
-A POSTROUTING -s 10.244.1.2/32 -m comment --comment "name: \"pods\" id: \"c1\"" -j GONE
-A POSTROUTING -j STAYS
-A STAYS -j GONE-TOO
-A GONE -j GONE-TOO
-A GONE -d 10.244.1.0/24 -j ACCEPT
`
	want := [][]string{
		{"-t", "nat", "-D", "POSTROUTING", "-s", "10.244.1.2/32", "-m", "comment", "--comment", `name: "pods" id: "c1"`, "-j", "GONE"},
		{"-t", "nat", "-D", "STAYS", "-j", "GONE-TOO"},
		{"-t", "nat", "-F", "GONE"}, {"-t", "nat", "-F", "GONE-TOO"},
		{"-t", "nat", "-X", "GONE"}, {"-t", "nat", "-X", "GONE-TOO"},
	}
	assert.Equal(t, want, xtables.Removal("nat", rules, "GONE-TOO", "NEVER", "GONE"))
	assert.Empty(t, xtables.Removal("nat", rules, "NEVER"))
	assert.Empty(t, xtables.Removal("nat", ""))
}
