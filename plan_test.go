package podweft_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
)

func TestChangeString(t *testing.T) {
	route := podweft.Named("route 10.244.2.0/24 dev flannel.1")
	tests := []struct {
		name   string
		change podweft.Change
		want   string
	}{
		{"create", podweft.Change{Op: podweft.Create, Object: route}, "+ route 10.244.2.0/24 dev flannel.1"},
		{"update", podweft.Change{Op: podweft.Update, Object: route}, "~ route 10.244.2.0/24 dev flannel.1"},
		{"delete", podweft.Change{Op: podweft.Delete, Object: route}, "- route 10.244.2.0/24 dev flannel.1"},
		{"no operation", podweft.Change{Object: route}, "? route 10.244.2.0/24 dev flannel.1"},
		{"note", podweft.Change{Op: podweft.Update, Object: route, Note: "was via 192.0.2.1"},
			"~ route 10.244.2.0/24 dev flannel.1  # was via 192.0.2.1"},
		{"error", podweft.Change{Op: podweft.Create, Object: route, Err: podweft.ErrConflict},
			"+ route 10.244.2.0/24 dev flannel.1  ! another program's object is in the way"},
		{"note and error", podweft.Change{Op: podweft.Create, Object: route, Note: "new peer", Err: podweft.ErrHeld},
			"+ route 10.244.2.0/24 dev flannel.1  # new peer  ! held back after earlier failures"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, tt.change.String())
			assert.Equal(t, tt.want+"\n", podweft.Plan{tt.change}.String())
		})
	}
}

func TestOpString(t *testing.T) {
	assert.Equal(t, "create", podweft.Create.String())
	assert.Equal(t, "update", podweft.Update.String())
	assert.Equal(t, "delete", podweft.Delete.String())
	assert.Equal(t, "unknown operation", podweft.Op(0).String())
}

func TestPlan(t *testing.T) {
	a, b := errors.New("network is unreachable"), errors.New("file exists")
	tests := []struct {
		name   string
		plan   podweft.Plan
		text   string
		failed []error
	}{
		{"nil", nil, "", nil},
		{"empty", podweft.Plan{}, "", nil},
		{
			"all made, in order",
			podweft.Plan{{Op: podweft.Delete, Object: podweft.Named("z")}, {Op: podweft.Create, Object: podweft.Named("a")}},
			"- z\n+ a\n", nil,
		},
		{
			"one failed",
			podweft.Plan{
				{Op: podweft.Create, Object: podweft.Named("a"), Err: a},
				{Op: podweft.Create, Object: podweft.Named("b")},
			},
			"+ a  ! network is unreachable\n+ b\n", []error{a},
		},
		{
			"two failed",
			podweft.Plan{
				{Op: podweft.Create, Object: podweft.Named("a"), Err: a},
				{Op: podweft.Update, Object: podweft.Named("b"), Err: b},
			},
			"+ a  ! network is unreachable\n~ b  ! file exists\n", []error{a, b},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.text, tt.plan.String())
			var failed []error
			for c, err := range tt.plan.Failed() {
				require.Equal(t, c.Err, err)
				failed = append(failed, err)
			}
			assert.Equal(t, tt.failed, failed)
			err := tt.plan.Err()
			if len(tt.failed) == 0 {
				assert.NoError(t, err)
			}
			if len(tt.failed) == 1 {
				assert.Equal(t, tt.failed[0], err, "a single error is not wrapped")
			}
			for _, want := range tt.failed {
				assert.ErrorIs(t, err, want)
			}
		})
	}
}

func TestPlanFailedStops(t *testing.T) {
	plan := podweft.Plan{
		{Op: podweft.Create, Object: podweft.Named("a"), Err: podweft.ErrHeld},
		{Op: podweft.Create, Object: podweft.Named("b"), Err: podweft.ErrHeld},
	}
	n := 0
	for range plan.Failed() {
		n++
		break
	}
	assert.Equal(t, 1, n)
}

func TestPassOutsideLoop(t *testing.T) {
	pass := podweft.PassOf(t.Context())
	assert.False(t, pass.Held(podweft.Named("a")), "nothing is held back")
	assert.False(t, pass.Watching(), "everything is to be read")
}
