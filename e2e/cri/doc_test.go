// Package cri_test lets real container runtimes start pods with our plugin: containerd through CRI, as a kubelet does, and
// podman. The verbs that neither calls, cnitool does. It is a module of its own, for what speaks CRI is heavy, and needs root and
// Debian's containerd, runc, podman and reference plugins:
//
//	apt-get install --no-install-recommends containerd runc podman containernetworking-plugins
//	make e2e-cri
//
// Each node is a set of namespaces (network, mounts, processes) that ends with the test, whatever runs in it. Tests skip
// where a program is missing; with PODWEFT_REQUIRE_CRI=1 in the environment they fail.
package cri_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// need skips the test where a program is missing.
func need(t *testing.T, programs ...string) {
	t.Helper()
	testnet.Require(t)
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("PODWEFT_REQUIRE_CRI") == "1" {
				require.NoError(t, err)
			}
			t.Skip(err)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("container runtimes need root")
	}
}
