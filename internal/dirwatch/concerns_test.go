package dirwatch

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"
)

// event is one as the kernel writes it: inotify(7).
func event(name string) []byte {
	padded := make([]byte, (len(name)+15)/16*16)
	copy(padded, name)
	b := make([]byte, unix.SizeofInotifyEvent)
	binary.NativeEndian.PutUint32(b[12:], uint32(len(padded)))
	return append(b, padded...)
}

func TestConcerns(t *testing.T) {
	ignore := func(name string) bool { return name == "draft" }
	assert.True(t, concerns(event("file"), ignore))
	assert.False(t, concerns(event("draft"), ignore))
	assert.True(t, concerns(append(event("draft"), event("file")...), ignore))
	assert.True(t, concerns(event("draft"), nil))
	assert.True(t, concerns(event(""), ignore), "the queue has overflowed")
	assert.True(t, concerns(event("draft")[:20], ignore), "cut short")
}
