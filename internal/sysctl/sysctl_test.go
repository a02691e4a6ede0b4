package sysctl_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/netns"
	"github.com/podweft/podweft/internal/sysctl"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

const forwarding = "net/ipv4/ip_forward"

func value(t *testing.T, n *testnet.Node, key string) (value string) {
	t.Helper()
	require.NoError(t, n.Do(func() error {
		raw, err := os.ReadFile("/proc/sys/" + key)
		value = strings.TrimSpace(string(raw))
		return err
	}))
	return value
}

func TestEnsureSets(t *testing.T) {
	n, other := testnet.NewNode(t, "n"), testnet.NewNode(t, "other")
	require.Equal(t, "0", value(t, n, forwarding))
	require.NoError(t, sysctl.Ensure(n.NetNS(), forwarding, "1"))
	assert.Equal(t, "1", value(t, n, forwarding))
	got, err := sysctl.Get(n.NetNS(), forwarding)
	require.NoError(t, err)
	assert.Equal(t, "1", got)
	assert.Equal(t, "0", value(t, other, forwarding), "that of another namespace")
	require.NoError(t, sysctl.Ensure(n.NetNS(), forwarding, "1"))
	require.NoError(t, sysctl.Ensure(n.NetNS(), forwarding, "0"))
	assert.Equal(t, "0", value(t, n, forwarding))
	require.NoError(t, sysctl.Ensure(n.NetNS(), "net/ipv6/conf/lo/forwarding", "1"), "one of a link")
}

func TestEnsureRefuses(t *testing.T) {
	n := testnet.NewNode(t, "n")
	t.Run("a parameter that the kernel lacks", func(t *testing.T) {
		_, err := sysctl.Get(n.NetNS(), "net/ipv4/no_such_thing")
		assert.ErrorIs(t, err, podweft.ErrNotSupported)
		err = sysctl.Ensure(n.NetNS(), "net/ipv4/no_such_thing", "1")
		assert.ErrorIs(t, err, podweft.ErrNotSupported)
		assert.ErrorIs(t, err, os.ErrNotExist)
		assert.EqualError(t, err, "set sysctl net/ipv4/no_such_thing=1: not supported by this kernel: "+
			"open /proc/sys/net/ipv4/no_such_thing: no such file or directory")
	})
	t.Run("a value that the kernel refuses", func(t *testing.T) {
		err := sysctl.Ensure(n.NetNS(), "net/ipv4/ip_default_ttl", "1000")
		assert.ErrorIs(t, err, unix.EINVAL)
		assert.ErrorContains(t, err, "set sysctl net/ipv4/ip_default_ttl=1000: it is 64 and")
	})
	t.Run("a namespace that is not there", func(t *testing.T) {
		assert.ErrorIs(t, sysctl.Ensure("/run/netns/none", forwarding, "1"), os.ErrNotExist)
	})
}

// TestReadOnly is a container: what has the wanted value already needs no privilege, and an error says what to do.
func TestReadOnly(t *testing.T) {
	n := testnet.NewNode(t, "n")
	require.NoError(t, readOnly(n, func() error { return sysctl.EnsureHere(forwarding, "0") }))
	err := readOnly(n, func() error { return sysctl.EnsureHere(forwarding, "1") })
	var failed *podweft.OpError
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, "sysctl net/ipv4/ip_forward=1", failed.Object.ID())
	assert.ErrorIs(t, err, unix.EROFS)
	assert.EqualError(t, err, "set sysctl net/ipv4/ip_forward=1: it is 0 and cannot be changed from here "+
		"(open /proc/sys/net/ipv4/ip_forward: read-only file system): set it on the host")
	assert.Equal(t, "0", value(t, n, forwarding))
}

// readOnly runs fn in the node on a thread for which /proc/sys is read-only. The thread ends with it: netns.Do does not give it
// back.
func readOnly(n *testnet.Node, fn func() error) error {
	return netns.Do(n.NetNS(), func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil { // of this thread alone
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil { // keep what follows to it
			return err
		}
		const path = "/proc/sys"
		if err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return err
		}
		// The other flags are locked in a user namespace, and must be given again (mount_namespaces(7)).
		const locked = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RELATIME
		if err := unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|locked, ""); err != nil {
			return err
		}
		return fn()
	})
}
