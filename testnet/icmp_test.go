package testnet

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestChecksum(t *testing.T) {
	tests := []struct {
		name string
		data []byte
		want uint16
	}{
		{"RFC 1071, section 3", []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}, ^uint16(0xddf2)},
		{"odd", []byte{0x01}, ^uint16(0x0100)},
		{"empty", nil, 0xffff},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, checksum(tt.data)) })
	}
}

func TestParse(t *testing.T) {
	cookie := [cookieSize]byte{1, 2, 3, 4, 5, 6, 7, 8}
	ours4, ours6 := echo(t, icmp4{}, cookie), echo(t, icmp6{}, cookie)
	ip4, ip6 := make([]byte, 20), make([]byte, 40)
	ip4[0], ip4[9] = 0x45, unix.IPPROTO_ICMP
	ip6[6] = unix.IPPROTO_ICMPV6
	options := append([]byte{0x46, 8: 0, 9: unix.IPPROTO_ICMP, 23: 0}, ours4...)
	udp := slices.Clone(ip4)
	udp[9] = unix.IPPROTO_UDP
	quote4, quote6 := append(ip4, ours4...), append(ip6, ours6...)

	tests := []struct {
		name string
		icmp icmp
		msg  []byte
		want error
		ours bool
	}{
		{"v4 answer", icmp4{}, answerTo(icmp4{}, ours4), nil, true},
		{"v6 answer", icmp6{}, answerTo(icmp6{}, ours6), nil, true},
		{"another's answer", icmp4{}, answerTo(icmp4{}, echo(t, icmp4{}, [cookieSize]byte{})), nil, false},
		{"v4 no network", icmp4{}, says(3, 0, 0, quote4), unix.ENETUNREACH, true},
		{"v4 no host", icmp4{}, says(3, 1, 0, quote4), unix.EHOSTUNREACH, true},
		{"v4 too big", icmp4{}, says(3, 4, 1400, quote4), unix.EMSGSIZE, true},
		{"v4 firewall", icmp4{}, says(3, 13, 0, quote4), unix.EACCES, true},
		{"v4 hop limit", icmp4{}, says(11, 0, 0, quote4), errHopLimit, true},
		{"v4 options quoted", icmp4{}, says(3, 1, 0, options), unix.EHOSTUNREACH, true},
		{"v4 least quoted", icmp4{}, says(3, 1, 0, quote4[:28]), unix.EHOSTUNREACH, true},
		{"v4 too little quoted", icmp4{}, says(3, 1, 0, quote4[:27]), nil, false},
		{"v4 about another's", icmp4{}, says(3, 1, 0, append(slices.Clone(ip4), echo(t, icmp4{}, [cookieSize]byte{})...)), nil, false},
		{"v4 about UDP", icmp4{}, says(3, 3, 0, append(udp, ours4...)), nil, false},
		{"v4 redirect", icmp4{}, says(5, 1, 0, quote4), nil, false},
		{"v6 no route", icmp6{}, says(1, 0, 0, quote6), unix.ENETUNREACH, true},
		{"v6 no host", icmp6{}, says(1, 3, 0, quote6), unix.EHOSTUNREACH, true},
		{"v6 too big", icmp6{}, says(2, 0, 1400, quote6), unix.EMSGSIZE, true},
		{"v6 firewall", icmp6{}, says(1, 1, 0, quote6), unix.EACCES, true},
		{"v6 hop limit", icmp6{}, says(3, 0, 0, quote6), errHopLimit, true},
		{"v6 neighbour", icmp6{}, says(135, 0, 0, quote6), nil, false},
		{"short", icmp4{}, []byte{3, 1}, nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			key, ours, verdict := parse(tt.icmp, tt.msg, cookie)
			assert.Equal(t, tt.ours, ours)
			if tt.ours {
				assert.Equal(t, uint32(0xcafe0001), key)
			}
			assert.ErrorIs(t, verdict, tt.want)
			if tt.want == unix.EMSGSIZE {
				assert.ErrorContains(t, verdict, "the next link takes 1400 bytes")
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0xca, 0xfe, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Add(append([]byte{3, 1, 0, 0, 0, 0, 0, 0, 0x4f, 9: 0, 17: 1}, make([]byte, 80)...))
	f.Fuzz(func(t *testing.T, msg []byte) {
		for _, p := range []icmp{icmp4{}, icmp6{}} {
			_, ours, verdict := parse(p, msg, [cookieSize]byte{})
			if verdict != nil {
				assert.True(t, ours, "a verdict on somebody else's packet")
			}
		}
	})
}

func echo(t *testing.T, p icmp, cookie [cookieSize]byte) []byte {
	t.Helper()
	msg, err := p.format().request(0xcafe0001, cookie, 0)
	require.NoError(t, err)
	return msg
}

func answerTo(p icmp, request []byte) []byte {
	msg := slices.Clone(request)
	msg[0] = p.format().reply
	return msg
}

// says makes an error message; number stands where ICMP has the next link's MTU.
func says(kind, code byte, number uint32, quoted []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind, code, 0, 0}, number), quoted...)
}
