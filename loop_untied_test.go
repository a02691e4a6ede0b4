package podweft

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
)

// slicey cannot be compared; as a map's key it would panic.
type slicey []string

func (s slicey) Error() string { return fmt.Sprint([]string(s)) }

func TestUntied(t *testing.T) {
	unreachable := errors.New("network is unreachable")
	a := &OpError{Op: "create", Object: Named("route a"), Err: unreachable}
	b := &OpError{Op: "create", Object: Named("route b"), Err: unreachable}
	dump := &OpError{Op: "list", Object: Named("routes"), Err: errors.New("interrupted")}
	plan := Plan{
		{Op: Create, Object: Named("route a"), Err: a},
		{Op: Create, Object: Named("route b"), Err: b},
		{Op: Create, Object: Named("route c")},
		{Op: Create, Object: Named("route d"), Err: ErrHeld},
		{Op: Create, Object: Named("route e"), Err: slicey{"odd"}},
	}
	tests := []struct {
		name string
		err  error
		want []error
	}{
		{"none", nil, nil},
		{"one object's", a, nil},
		{"all objects'", plan[:4].Err(), nil},
		{"objects', wrapped", fmt.Errorf("apply: %w", errors.Join(a, fmt.Errorf("peer b: %w", b))), nil},
		{"held back", errors.Join(ErrHeld), nil},
		{"a dump's", dump, []error{dump}},
		{"a dump's among objects'", errors.Join(a, dump, b), []error{dump}},
		{"a dump's deeper among objects'", fmt.Errorf("apply: %w", errors.Join(a, errors.Join(b, dump))), []error{dump}},
		{"none of ours stays whole", fmt.Errorf("apply: %w: %w", unreachable, ErrConflict),
			[]error{fmt.Errorf("apply: %w: %w", unreachable, ErrConflict)}},
		{"an error that cannot be compared", slicey{"other"}, []error{slicey{"other"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rest := untied(tt.err, plan[:4])
			assert.Equal(t, tt.want, rest)
			assert.NotPanics(t, func() { untied(tt.err, plan) })
		})
	}
}
