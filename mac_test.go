package podweft_test

import (
	"encoding/json"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
)

var someMAC = podweft.MAC{0x0e, 0x1d, 0x2c, 0x3b, 0x4a, 0x59}

func TestParseMAC(t *testing.T) {
	tests := []struct {
		name string
		text string
		want podweft.MAC
		err  string
	}{
		{"colons", "0e:1d:2c:3b:4a:59", someMAC, ""},
		{"capitals", "0E:1D:2C:3B:4A:59", someMAC, ""},
		{"dashes", "0e-1d-2c-3b-4a-59", someMAC, ""},
		{"dots", "0e1d.2c3b.4a59", someMAC, ""},
		{"zero", "00:00:00:00:00:00", podweft.MAC{}, ""},
		{"empty", "", podweft.MAC{}, `MAC: "" is not an Ethernet address`},
		{"too short", "0e:1d:2c:3b:4a", podweft.MAC{}, `MAC: "0e:1d:2c:3b:4a" is not an Ethernet address`},
		{"EUI-64", "02:00:5e:10:00:00:00:01", podweft.MAC{}, "is not an Ethernet address"},
		{"InfiniBand", "00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01", podweft.MAC{}, "is not an Ethernet address"},
		{"no digits", "0g:1d:2c:3b:4a:59", podweft.MAC{}, "write six pairs of hexadecimal digits"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := podweft.ParseMAC(tt.text)
			assert.Equal(t, tt.want, got)
			if tt.err == "" {
				assert.NoError(t, err)
				return
			}
			assert.ErrorContains(t, err, tt.err)
			assert.ErrorIs(t, err, podweft.ErrInvalid)
		})
	}
}

func TestMACKinds(t *testing.T) {
	tests := []struct {
		name          string
		mac           podweft.MAC
		zero, unicast bool
	}{
		{"none", podweft.MAC{}, true, false},
		{"a station", someMAC, false, true},
		{"broadcast", podweft.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, false, false},
		{"a group", podweft.MAC{0x01, 0x00, 0x5e, 0, 0, 1}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.zero, tt.mac.IsZero())
			assert.Equal(t, tt.unicast, tt.mac.IsUnicast())
		})
	}
}

func TestNewMAC(t *testing.T) {
	made := map[podweft.MAC]bool{}
	for range 1000 {
		m := podweft.NewMAC()
		require.True(t, m.IsUnicast())
		require.NotZero(t, m[0]&0x02, "locally administered")
		require.False(t, made[m], "46 random bits do not repeat in a thousand (odds 1 in 10^8)")
		made[m] = true
	}
}

func TestMACJSON(t *testing.T) {
	type vtep struct{ MAC, None podweft.MAC }
	text, err := json.Marshal(vtep{MAC: someMAC})
	require.NoError(t, err)
	assert.JSONEq(t, `{"MAC":"0e:1d:2c:3b:4a:59","None":""}`, string(text))

	got := vtep{None: someMAC}
	require.NoError(t, json.Unmarshal(text, &got))
	assert.Equal(t, vtep{MAC: someMAC}, got)

	assert.ErrorIs(t, json.Unmarshal([]byte(`{"MAC":"nonsense"}`), &got), podweft.ErrInvalid)
	assert.Equal(t, vtep{MAC: someMAC}, got, "a bad text changes nothing")
}

func FuzzParseMAC(f *testing.F) {
	for _, s := range []string{"0e:1d:2c:3b:4a:59", "0E-1D-2C-3B-4A-59", "0e1d.2c3b.4a59", "", "::::::", "02:00:5e:10:00:00:00:01"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := podweft.ParseMAC(s)
		hw, theirs := net.ParseMAC(s)
		if err != nil {
			assert.ErrorIs(t, err, podweft.ErrInvalid)
			assert.Zero(t, m)
			assert.False(t, theirs == nil && len(hw) == 6, "refused a good address")
			return
		}
		assert.Equal(t, hw.String(), m.String())
		again, err := podweft.ParseMAC(m.String())
		assert.NoError(t, err)
		assert.Equal(t, m, again)

		text, err := m.MarshalText()
		require.NoError(t, err)
		back := someMAC
		require.NoError(t, back.UnmarshalText(text))
		assert.Equal(t, m, back)
	})
}

func TestMACLinkLocal(t *testing.T) {
	m, err := podweft.ParseMAC("02:00:5e:10:00:01")
	require.NoError(t, err)
	assert.Equal(t, netip.MustParseAddr("fe80::5eff:fe10:1"), m.LinkLocal())
}
