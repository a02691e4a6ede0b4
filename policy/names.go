package policy

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"strings"
)

// namesVersion is hashed into every name. It changes when a name comes to stand for something else, so that a filter left behind
// by an older version is not taken for ours.
const namesVersion = "1"

// The first letter of a name says what it is the name of.
const (
	peersName  = "p"
	blocksName = "b"
	portsName  = "n"
	chainName  = "c"
	className  = "k"
)

// hashed makes a name of what it stands for. Two ends meet here: a chain of iptables has room for 28 characters, of which a
// renderer needs a few, and whoever may write policies must not find two selectors of one name: 110 bits are left, which takes
// 2^55 attempts.
func hashed(kind string, parts ...string) string {
	h := sha256.New()
	var length [8]byte
	for _, part := range append([]string{namesVersion, kind}, parts...) {
		// Lengths first, so that "a", "bc" and "ab", "c" differ.
		h.Write(binary.BigEndian.AppendUint64(length[:0], uint64(len(part))))
		h.Write([]byte(part))
	}
	text := base32.StdEncoding.EncodeToString(h.Sum(nil))
	return kind + "-" + strings.ToLower(text[:22])
}
