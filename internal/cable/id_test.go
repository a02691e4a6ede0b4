package cable_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/cable"
)

func ExampleHostName() {
	fmt.Println(cable.HostName("podweft", "blue", "eth0"))
	fmt.Println(cable.PodMAC("podweft", cable.ID{Container: "blue", Name: "eth0"}, "10.244.1.2"))
	// Output:
	// vethf42b96558b1
	// 9e:b3:20:fe:bc:f8
}

func TestMarks(t *testing.T) {
	mark := cable.MarkOf("blue")
	assert.True(t, cable.Bears("podweft:blue", mark))
	assert.True(t, cable.Bears("podweft:blue/pod/eth0", mark))
	assert.False(t, cable.Bears("podweft:bluebird/pod/eth0", mark), "another owner")
	assert.False(t, cable.Bears("", mark))
}

func TestDerivedMACs(t *testing.T) {
	seen := map[podweft.MAC]string{}
	for i := range 1000 {
		of := fmt.Sprint("pod-", i)
		mac := cable.DeriveMAC("host", "podweft", of, "eth0")
		assert.True(t, mac.IsUnicast() && mac[0]&2 != 0, "%s is a locally administered station's", mac)
		assert.Empty(t, seen[mac])
		seen[mac] = of
	}
	assert.NotEqual(t, cable.DeriveMAC("a", "bc"), cable.DeriveMAC("ab", "c"))
}

func TestOwner(t *testing.T) {
	for owner, good := range map[string]bool{
		"": true, "podweft": true, "a.b-c_d": true, "7": true, strings.Repeat("o", 64): true,
		"-a": false, ".a": false, "a/b": false, "a b": false, "ä": false, strings.Repeat("o", 65): false,
	} {
		var f cable.Fields
		f.Owner(owner)
		if good {
			assert.NoError(t, f.Err(), owner)
		} else {
			require.ErrorIs(t, f.Err(), podweft.ErrInvalid, owner)
		}
	}
}
