package iptables

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/policy"
)

func TestPrefixes(t *testing.T) {
	tests := []struct {
		name, from, to string
		want           []string
	}{
		{"one", "10.0.0.1", "10.0.0.1", []string{"10.0.0.1"}},
		{"a block", "10.0.0.0", "10.0.0.255", []string{"10.0.0.0/24"}},
		{"all", "0.0.0.0", "255.255.255.255", []string{"0.0.0.0/1", "128.0.0.0/1"}},
		{"all of IPv6", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", []string{"::/1", "8000::/1"}},
		{"across", "10.0.0.255", "10.0.1.2", []string{"10.0.0.255", "10.0.1.0/31", "10.0.1.2"}},
		{"to the end", "255.255.255.253", "255.255.255.255", []string{"255.255.255.253", "255.255.255.254/31"}},
		{"odd", "::1", "::6", []string{"::1", "::2/127", "::4/127", "::6"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, p := range prefixes(policy.Range{From: netip.MustParseAddr(test.from), To: netip.MustParseAddr(test.to)}) {
				got = append(got, netText(p))
			}
			assert.Equal(t, test.want, got)
		})
	}
}

func TestElement(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1": "10.0.0.1", "::0.1.0.0": "::1:0", "::0.1.0.0/112": "::1:0/112", "fd00::1,tcp:80": "fd00::1,tcp:80", "what": "what",
	} {
		assert.Equal(t, want, element(text))
	}
}

func TestQuoted(t *testing.T) {
	for text, want := range map[string]string{
		"one": "one", "two words": `"two words"`, `it's "so"\`: `"it?s ?so??"`, "café": `"caf?"`, "": `""`, "0123456789abc": "0123456789",
	} {
		assert.Equal(t, want, quoted(text, 10))
	}
}

// TestExplain: what programs say becomes errors to branch on, with the line that was wrong and what helps.
func TestExplain(t *testing.T) {
	tests := []struct {
		name, said string
		is         error
		want       string
	}{
		{"legacy without a match", "iptables-restore v1.8.9 (legacy): Couldn't load match `set':No such file or directory\n\nError occurred at line: 2\nTry `iptables-restore -h' or 'iptables-restore --help' for more information.\n",
			podweft.ErrNotSupported, `("-A one -m set")`},
		{"nft without a module", "iptables-nft-restore: Extension set revision 0 not supported, missing kernel module?\n", podweft.ErrNotSupported, "nft_compat"},
		{"lock", "Another app is currently holding the xtables lock; still 9s 0us time ahead to have a chance to grab the lock...\n", unix.EAGAIN, "lock for longer than 10 seconds"},
		{"no privilege", "iptables-restore v1.8.9 (legacy): can't initialize iptables table `mangle': Permission denied (you must be root)\n", unix.EPERM, "CAP_NET_ADMIN"},
		{"no ip_set", "ipset v7.17: Cannot open session to kernel.\n", podweft.ErrNotSupported, "load ip_set"},
		{"ipset's line", "ipset v7.17: Error in line 2: Set cannot be destroyed: it is in use by a kernel component\n", nil, `("-A one -m set")`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := explain("iptables-restore", "*mangle\n-A one -m set\nCOMMIT\n", test.said, assert.AnError)
			if test.is != nil {
				require.ErrorIs(t, err, test.is)
			} else {
				require.ErrorIs(t, err, assert.AnError)
			}
			assert.Contains(t, err.Error(), test.want)
		})
	}
}

// FuzzRead: whatever the programs say, reading it and comparing it with what should be never fails, and what is made of it leads to
// no set that is not made.
func FuzzRead(f *testing.F) {
	f.Add("*mangle\n:pwubbu-policies - [0:0]\n[1:2] -A POSTROUTING -j pwubbu-policies\n[0:0] -A pwubbu-policies -m set --match-set pwubbu4a-known src -j DROP\nCOMMIT\n",
		"create pwubbu4a-known hash:ip family inet hashsize 64\nadd pwubbu4a-known 10.0.0.1\n")
	f.Add("[:] -A  \n:pwubbu", "create pwubbu4\nadd pwubbu4c 1\ncreate pwubbu4 x y")
	f.Fuzz(func(t *testing.T, rules, sets string) {
		names := Config{}.names()
		have := newImage(families[0])
		have.readRules(names, []byte(rules))
		have.readSets(names, []byte(sets))
		want := newImage(families[0])
		want.chains["pwubbu-policies"] = []rule{{text: "-m set --match-set pwubbu4.-known src -j DROP", sets: []string{"pwubbu4.-known"}}}
		want.sets["pwubbu4.-known"] = &set{name: "pwubbu4.-known", kind: ipKind, use: knows, elements: []string{"10.0.0.1"}}
		next := compare(names, have, want).next
		for name := range setsOf(next) {
			require.Contains(t, next.sets, name)
		}
		assert.Empty(t, compare(names, next, want).plan)
	})
}

func setsOf(im *image) map[string]bool {
	all := map[string]bool{}
	for _, rules := range im.chains {
		for _, r := range rules {
			for _, s := range setsIn(r.text) {
				all[s] = true
			}
		}
	}
	return all
}
