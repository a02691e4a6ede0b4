package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPodNames(t *testing.T) {
	assert.Equal(t, []string{"pod3a", "pod3b"}, podNames("pod", 3, 2))
	many := podNames("pod", 1, 26*27+1)
	assert.Equal(t, "pod1z", many[25])
	assert.Equal(t, "pod1aa", many[26])
	assert.Equal(t, "pod1zz", many[26*27-1])
	assert.Equal(t, "pod1aaa", many[26*27])
	assert.Len(t, slices.Compact(slices.Sorted(slices.Values(many))), len(many))
}

func TestPairsOf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 40).Draw(t, "n")
		most := rapid.IntRange(1, 2000).Draw(t, "most")
		reverse := func(n int) []int {
			order := make([]int, n)
			for i := range order {
				order[i] = n - 1 - i
			}
			return order
		}
		pairs := pairsOf(n, most, reverse)
		if len(pairs) != min(most, n*max(n-1, 0)) {
			t.Fatalf("%d pairs", len(pairs))
		}
		seen := map[[2]int]bool{}
		first, second := make([]int, n), make([]int, n)
		for _, p := range pairs {
			if p[0] == p[1] || seen[p] {
				t.Fatalf("%v twice, or with itself", p)
			}
			seen[p] = true
			first[p[0]]++
			second[p[1]]++
		}
		for _, count := range [][]int{first, second} {
			if n > 0 && len(pairs) > 0 && slices.Max(count)-slices.Min(count) > 1 {
				t.Fatalf("uneven: %v", count)
			}
		}
	})
}

// small is a matrix of three pods, of which one does not answer.
func small() *matrix {
	one, two := &member{}, &member{}
	pods := []*pod{{name: "pod1a", on: one}, {name: "pod1b", on: one}, {name: "pod2a", on: two}}
	var m matrix
	for _, from := range pods {
		for _, to := range pods {
			if from == to {
				continue
			}
			p := ping{from: from, to: to, addr: netip.MustParseAddr("10.0.0.9"), rtt: time.Millisecond}
			if to == pods[2] {
				p.err = context.DeadlineExceeded
			}
			m.pings = append(m.pings, p)
		}
		m.pings = append(m.pings, ping{from: from, addr: netip.MustParseAddr("fd00::9"), rtt: 3 * time.Millisecond})
	}
	return &m
}

func TestPicture(t *testing.T) {
	var b bytes.Buffer
	small().picture().print(printer{w: &b}, "  ")
	assert.Equal(t, strings.TrimPrefix(`
         1a  1b  2a  outside
  pod1a  ·   ●   ✗   ●
  pod1b  ●   ·   ✗   ●
  pod2a  ●   ●   ·   ●

  ● all answered   ✗ not all   · nothing sent
`, "\n"), b.String())
}

func TestVerdict(t *testing.T) {
	m := small()
	err := m.verdict()
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.EqualError(t, err, "2 of 9 pings were not answered, the first from pod1a to pod2a: context deadline exceeded")
	assert.Equal(t, time.Millisecond, m.median())
	assert.Equal(t, matrixReport{Sent: 9, Received: 7, Failed: []pingReport{
		{From: "pod1a", To: "pod2a", Family: "IPv4", Error: "context deadline exceeded"},
		{From: "pod1b", To: "pod2a", Family: "IPv4", Error: "context deadline exceeded"},
	}}, m.report())

	lost := errors.New("lost")
	require.ErrorIs(t, (&tour{matrix: &matrix{}, lost: lost}).verdict(), lost)
	require.NoError(t, (&tour{matrix: &matrix{}}).verdict())
}

func TestColors(t *testing.T) {
	var b bytes.Buffer
	list(printer{w: &b, color: true}, " ", [][2]string{{"a", "one"}, {"bcd", "two"}})
	assert.Equal(t, " \x1b[36ma\x1b[0m    one\n \x1b[36mbcd\x1b[0m  two\n", b.String())
}

func TestAbridge(t *testing.T) {
	var long table
	long.head("n")
	for range 20 {
		long.row(cell{"x", plain})
	}
	short := abridge(long, 5)
	require.Len(t, short.rows, 7)
	assert.Equal(t, "... 15 more", short.rows[5][0].text)
	assert.Equal(t, long, abridge(long, 19))
}

func TestOuterOf(t *testing.T) {
	payload := func(vniFlag byte) []byte {
		b := make([]byte, 16)
		binary.BigEndian.PutUint16(b[2:], 8472)
		b[8] = vniFlag
		binary.BigEndian.PutUint32(b[12:], 4711<<8)
		return append(b, make([]byte, 60)...)
	}
	v4 := append(make([]byte, 14), 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2)
	v6 := append(make([]byte, 14), 0x60, 0, 0, 0, 0, 0, 17, 64)
	v6 = append(v6, netip.MustParseAddr("2001:db8::1").AsSlice()...)
	v6 = append(v6, netip.MustParseAddr("2001:db8::2").AsSlice()...)
	tests := []struct {
		name  string
		frame []byte
		want  string
	}{
		{"over IPv4", append(slices.Clone(v4), payload(8)...), "110 bytes, 192.0.2.1 > 192.0.2.2:8472, VNI 4711"},
		{"over IPv6", append(slices.Clone(v6), payload(8)...), "130 bytes, 2001:db8::1 > [2001:db8::2]:8472, VNI 4711"},
		{"not VXLAN", append(slices.Clone(v4), payload(0)...), "110 bytes"},
		{"neither family", make([]byte, 100), "100 bytes"},
		{"short", v4, "34 bytes"},
		{"nothing", nil, "0 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, describe(tt.frame))
		})
	}
}
