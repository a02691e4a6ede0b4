package testnet_test

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/testnet"
)

func TestLoneNode(t *testing.T) {
	n := testnet.NewNode(t, "pod")
	assert.Equal(t, "pod", n.Name)
	assert.Empty(t, n.Addrs())

	links, err := n.Links()
	require.NoError(t, err)
	want := []testnet.Link{{Index: 1, Name: "lo", Kind: "device", MTU: 65536, Up: true, Addrs: []netip.Prefix{
		netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("::1/128"),
	}}}
	assert.Equal(t, want, links)
	for _, addr := range []string{"127.0.0.1", "::1"} {
		_, err := n.Ping(t.Context(), netip.MustParseAddr(addr))
		assert.NoError(t, err)
	}
}

func TestNodesAreApart(t *testing.T) {
	a, b := testnet.NewNode(t, "a"), testnet.NewNode(t, "b")
	listen := func() error {
		l, err := net.Listen("tcp", "127.0.0.1:4711")
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}
	require.NoError(t, a.Do(listen))
	require.NoError(t, b.Do(listen), "the same port, in another node")
	assert.ErrorIs(t, a.Do(listen), unix.EADDRINUSE)
}

func TestLinksGoDownAndUp(t *testing.T) {
	n := testnet.NewNode(t, "n")
	require.NoError(t, n.SetDown("lo"))
	links, err := n.Links()
	require.NoError(t, err)
	assert.False(t, links[0].Up)
	require.NoError(t, n.SetUp("lo"))
	_, err = n.Ping(t.Context(), netip.MustParseAddr("127.0.0.1"))
	assert.NoError(t, err)
	assert.EqualError(t, n.SetUp("eth7"), "bring up link eth7 of n: Link not found")
}

func TestCommandRunsInside(t *testing.T) {
	n := testnet.NewNode(t, "n")
	var inside string
	require.NoError(t, n.Do(func() (err error) {
		inside, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}))
	outside, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	require.NotEqual(t, outside, inside)

	cmd := n.Command(t.Context(), "sh", "-c", `readlink /proc/self/ns/net; echo "$0" "$@" "$VARIABLE"; cat; exit 5`, "one", "two words")
	cmd.Env = []string{"VARIABLE=value"} // and nothing else, not even PATH
	cmd.Stdin = strings.NewReader("input")
	out, err := cmd.Output()
	assert.EqualError(t, err, "exit status 5")
	assert.Equal(t, inside+"\none two words value\ninput", string(out))
}

func TestCommandFails(t *testing.T) {
	n := testnet.NewNode(t, "n")
	t.Run("no such program", func(t *testing.T) {
		assert.ErrorIs(t, n.Command(t.Context(), "no-such-program").Run(), exec.ErrNotFound)
	})
	t.Run("not a program", func(t *testing.T) {
		file := t.TempDir() + "/file"
		require.NoError(t, os.WriteFile(file, nil, 0o644))
		out, err := n.Command(t.Context(), file).CombinedOutput()
		assert.Error(t, err)
		assert.Contains(t, string(out)+err.Error(), "permission denied")
	})
	t.Run("a program that has not entered", func(t *testing.T) {
		out, code := output(t, program(t, nil, "stranger"))
		assert.Equal(t, 1, code)
		assert.Contains(t, out, "run true in node n: neither testnet.Main nor testnet.Enter was called")
	})
	t.Run("a closed node", func(t *testing.T) {
		gone, err := testnet.BuildNode("gone")
		require.NoError(t, err)
		require.NoError(t, gone.Close())
		require.NoError(t, gone.Close(), "again")
		out, err := gone.Command(t.Context(), "true").CombinedOutput()
		assert.EqualError(t, err, "exit status 127")
		assert.Contains(t, string(out), "true: network namespace:")
	})
}

func BenchmarkCommand(b *testing.B) {
	n := testnet.NewNode(b, "n")
	for b.Loop() {
		require.NoError(b, n.Command(b.Context(), "true").Run())
	}
}
