package word_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/podweft/podweft/internal/word"
)

func TestValid(t *testing.T) {
	for s, want := range map[string]bool{
		"a": true, "7": true, "podweft": true, "A-b_c.d": true, "0123456789": true,
		"": false, ".": false, "..": false, "-a": false, "_a": false, "a/b": false, "a b": false, "ä": false, "a\x00": false, "01234567890": false,
	} {
		assert.Equal(t, want, word.Valid(s, 10), "%q", s)
	}
}
