package testnet

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

func TestRefusalsAreExplained(t *testing.T) {
	tests := []struct {
		name    string
		root    bool
		sysctls map[string]string
		step    string
		errno   unix.Errno
		want    string
	}{
		{
			name: "no user namespaces", sysctls: map[string]string{"user.max_user_namespaces": "0"},
			step: stepStart, errno: unix.ENOSPC,
			want: "sysctl user.max_user_namespaces=0 lets nobody create another namespace (no space left on device): " +
				"sudo sysctl -w user.max_user_namespaces=10000, or run this with sudo",
		},
		{
			name:    "no network namespaces, for root either",
			sysctls: map[string]string{"user.max_user_namespaces": "100", "user.max_net_namespaces": "0"}, root: true,
			step: stepStart, errno: unix.ENOSPC,
			want: "sysctl user.max_net_namespaces=0 lets nobody create another namespace (no space left on device): " +
				"sudo sysctl -w user.max_net_namespaces=10000",
		},
		{
			name: "a limit reached", step: stepStart, errno: unix.ENOSPC,
			want: "a limit of sysctl user.max_*_namespaces (or of 32 nested user namespaces) lets nobody create another " +
				"namespace (no space left on device): raise it, or end what uses them up",
		},
		{
			name: "nested too deep", step: stepStart, errno: unix.EUSERS,
			want: "a limit of sysctl user.max_*_namespaces (or of 32 nested user namespaces) lets nobody create another " +
				"namespace (too many users): raise it, or end what uses them up",
		},
		{
			name: "Debian's switch", sysctls: map[string]string{"kernel.unprivileged_userns_clone": "0"},
			step: stepStart, errno: unix.EPERM,
			want: "sysctl kernel.unprivileged_userns_clone=0 keeps ordinary users from creating namespaces (operation not " +
				"permitted): sudo sysctl -w kernel.unprivileged_userns_clone=1, or run this with sudo",
		},
		{
			name: "Ubuntu's AppArmor, seen inside", sysctls: map[string]string{"kernel.apparmor_restrict_unprivileged_userns": "1"},
			step: stepMount, errno: unix.EACCES,
			want: "sysctl kernel.apparmor_restrict_unprivileged_userns=1 takes every privilege inside a user namespace away " +
				"(permission denied): sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or run this with sudo",
		},
		{
			name: "another AppArmor profile", step: stepStart, errno: unix.EACCES,
			want: "a security module, such as AppArmor or SELinux, forbids this program to use a user namespace " +
				"(permission denied): change its policy, or run this with sudo",
		},
		{
			name: "the same, seen inside", step: stepNetlink, errno: unix.EPERM,
			want: "a security module, such as AppArmor or SELinux, forbids this program to use a user namespace " +
				"(operation not permitted): change its policy, or run this with sudo",
		},
		{
			name: "a chroot", step: stepStart, errno: unix.EPERM,
			want: "a seccomp filter, as containers have one, or a chroot forbids new namespaces (operation not permitted): " +
				"leave it, or run this with sudo",
		},
		{
			name: "root in a container", root: true, step: stepStart, errno: unix.EPERM,
			want: "a seccomp filter, as containers have one, or a chroot forbids new namespaces (operation not permitted): " +
				"leave it, or give root CAP_SYS_ADMIN (in a container: --privileged)",
		},
		{
			name: "a kernel without them", step: stepStart, errno: unix.EINVAL,
			want: "this kernel, built without CONFIG_USER_NS or CONFIG_NET_NS, has no such namespaces (invalid argument): " +
				"use another kernel, or run this with sudo",
		},
		{
			name: "something else", step: stepStart, errno: unix.ENOMEM,
			want: "this machine created no namespaces (cannot allocate memory): see to that, or run this with sudo",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := machine{root: tt.root, sysctl: func(key string) string { return tt.sysctls[key] }}
			err := error(m.explain(&stepError{step: tt.step, err: tt.errno}))
			assert.EqualError(t, err, tt.want)
			assert.ErrorIs(t, err, tt.errno)
			assert.ErrorIs(t, err, podweft.ErrNotSupported)
		})
	}
}

func TestReadOnlySysctlsAreExplained(t *testing.T) {
	err := sysctlRefusal(unix.EROFS)
	assert.EqualError(t, err, "a read-only /proc/sys, as containers have it, keeps sysctls from being set "+
		"(read-only file system): run the container with --privileged, or outside a container")
	assert.ErrorIs(t, err, podweft.ErrNotSupported)
	assert.ErrorIs(t, err, unix.EROFS)
}

func TestReportsArriveAsSent(t *testing.T) {
	tests := []struct {
		name    string
		refused *stepError
	}{
		{"inside", nil},
		{"refused", &stepError{step: stepProc, err: unix.EPERM}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var pipe bytes.Buffer
			require.NoError(t, writeReport(&pipe, tt.refused))
			assert.Equal(t, tt.refused, readReport(&pipe))
		})
	}
	assert.Nil(t, readReport(&bytes.Buffer{}), "a program that a signal ended was not refused")
	assert.Error(t, writeReport(closedPipe{}, nil), "nobody there to read it")
}

type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
