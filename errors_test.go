package podweft_test

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
)

func TestOpError(t *testing.T) {
	var err error = &podweft.OpError{
		Op:     "create",
		Object: podweft.Named("route 10.1.3.0/24 via 192.0.2.9"),
		Err:    fmt.Errorf("%w: %w", podweft.ErrNotSupported, syscall.ENETUNREACH),
	}
	assert.EqualError(t, err,
		"create route 10.1.3.0/24 via 192.0.2.9: not supported by this kernel: network is unreachable")
	assert.ErrorIs(t, err, podweft.ErrNotSupported)
	assert.ErrorIs(t, err, syscall.ENETUNREACH, "the kernel's word is kept")
	assert.NotErrorIs(t, err, podweft.ErrConflict)
	var op *podweft.OpError
	require.ErrorAs(t, fmt.Errorf("node a: %w", err), &op)
	assert.Equal(t, "route 10.1.3.0/24 via 192.0.2.9", op.Object.ID())
}

func TestFieldError(t *testing.T) {
	tests := []struct {
		name string
		err  podweft.FieldError
		want string
	}{
		{"all", podweft.FieldError{Field: "Backend.VNI", Value: 0, Problem: "is not a VNI", Remedy: "use 1 to 16777215"},
			"Backend.VNI: 0 is not a VNI: use 1 to 16777215"},
		{"no remedy", podweft.FieldError{Field: "Port", Value: -1, Problem: "is not a port"}, "Port: -1 is not a port"},
		{"no value", podweft.FieldError{Field: "Network", Problem: "is missing", Remedy: `write "10.244.0.0/16"`},
			`Network: is missing: write "10.244.0.0/16"`},
		{"neither", podweft.FieldError{Field: "Network", Problem: "is missing"}, "Network: is missing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var err error = fmt.Errorf("net-conf.json: %w", &tt.err)
			assert.EqualError(t, err, "net-conf.json: "+tt.want)
			assert.ErrorIs(t, err, podweft.ErrInvalid)
			assert.NotErrorIs(t, err, podweft.ErrConflict)
		})
	}
}
