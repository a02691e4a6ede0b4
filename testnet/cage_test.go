package testnet_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/podweft/podweft/testnet"
)

// The refusals that can be had without touching a setting of the host. Each is that of a real kernel.
func TestRefusedPrograms(t *testing.T) {
	testnet.Require(t)
	tests := []struct {
		name, worse, want string
	}{
		{"no user namespaces", "sysctl user.max_user_namespaces=0", "sysctl user.max_user_namespaces=0 lets nobody create"},
		{"no network namespaces", "sysctl user.max_net_namespaces=0", "sysctl user.max_net_namespaces=0 lets nobody create"},
		{"chroot", "chroot " + t.TempDir(), "a seccomp filter, as containers have one, or a chroot forbids new namespaces"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, code := output(t, caged(t, []string{tt.worse}, "report"))
			assert.Contains(t, out, tt.want)
			assert.Equal(t, 1, code)
		})
	}
}

func TestRefusedTestsSkip(t *testing.T) {
	testnet.Require(t)
	worse := []string{"sysctl user.max_user_namespaces=0"}
	args := []string{"-test.run=^(TestLoneNode|Example.*)$", "-test.v"}

	out, code := output(t, caged(t, worse, "", args...))
	assert.Zero(t, code, out)
	assert.Contains(t, out, "--- SKIP: TestLoneNode")
	assert.Contains(t, out, "testnet: sysctl user.max_user_namespaces=0 lets nobody create")
	assert.NotContains(t, out, "Example")

	required := caged(t, worse, "", args...)
	required.Env = append(required.Env, "PODWEFT_REQUIRE_KERNEL=1")
	out, code = output(t, required)
	assert.Equal(t, 1, code)
	assert.Contains(t, out, "--- FAIL: TestLoneNode")
	assert.Contains(t, out, "=== RUN   Example")
	assert.Contains(t, out, "testnet: sysctl user.max_user_namespaces=0 lets nobody create")
}

// As in a container: root lacks CAP_SYS_ADMIN, and where parts of /proc are covered no other can be mounted.
func TestEnterInAContainer(t *testing.T) {
	testnet.Require(t)
	out, code := output(t, caged(t, nil, "report"))
	assert.Equal(t, 7, code, out)
	assert.Contains(t, out, "pid 1\n")
	assert.Contains(t, out, "sysctls <nil>\n")

	out, code = output(t, caged(t, []string{"read-only /proc/sys"}, "report"))
	assert.Equal(t, 7, code, out)
	assert.NotContains(t, out, "pid 1\n")
	assert.Contains(t, out, "links [all default lo]\n")
	assert.Contains(t, out, "sysctls a read-only /proc/sys, as containers have it, keeps sysctls from being set")
}
