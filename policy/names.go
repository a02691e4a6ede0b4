package policy

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
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
	var room [256]byte // most parts fit: names are made by the thousand
	all := appendPart(appendPart(room[:0], namesVersion), kind)
	for _, part := range parts {
		all = appendPart(all, part)
	}
	sum := sha256.Sum256(all)
	var text [24]byte
	lower.Encode(text[:], sum[:15])
	return kind + "-" + string(text[:22])
}

// lower is the usual base32 in lower case.
var lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567")

// appendPart puts its length first, so that "a", "bc" and "ab", "c" differ.
func appendPart(to []byte, part string) []byte {
	return append(binary.BigEndian.AppendUint64(to, uint64(len(part))), part...)
}
