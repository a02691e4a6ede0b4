package cniplugin

import (
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestPatientInput: who calls a plugin may keep the pipe open, and the plugin waits for so long.
func TestPatientInput(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	_, err = w.WriteString("{}")
	require.NoError(t, err)
	raw, err := io.ReadAll(&patient{r, time.Now().Add(50 * time.Millisecond)})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	assert.Equal(t, "{}", string(raw))

	_, err = w.WriteString("{}")
	require.NoError(t, err)
	require.NoError(t, w.Close())
	raw, err = io.ReadAll(&patient{r, time.Now().Add(time.Minute)})
	require.NoError(t, err)
	assert.Equal(t, "{}", string(raw))
}
