package udp

import (
	"os"
	"testing"

	"github.com/podweft/podweft/testnet"
)

// NeedTUN skips the test where TUN links cannot be had.
func NeedTUN(t testing.TB) {
	t.Helper()
	testnet.Require(t)
	f, err := os.OpenFile(tunPath, os.O_RDWR, 0)
	switch {
	case err == nil:
		f.Close()
	case os.Getenv("PODWEFT_REQUIRE_KERNEL") == "1":
		t.Fatal(err)
	default:
		t.Skip(err)
	}
}
