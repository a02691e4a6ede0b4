package nat

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

var (
	name = tableName(DefaultOwner, "nat")
	spec = Spec{Masquerade: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("10.244.2.0/24")}}
	want = wanted(name, spec)
	pods = want.sets[2]
)

// elementSteps are those that put both pod prefixes into a table that is complete otherwise.
func elementSteps() []step {
	have := wanted(name, spec)
	have.elements[pods] = nil
	return compare(name, have, want)[:2]
}

func failed(o podweft.Object, errno error) *podweft.OpError {
	return &podweft.OpError{Op: "create", Object: o, Err: errno}
}

func TestARefusedElementStopsNoOther(t *testing.T) {
	steps := elementSteps()
	refusal := failed(steps[1].Object, unix.EEXIST)
	require.True(t, blame(steps, []*podweft.OpError{refusal}))
	require.NoError(t, steps[0].Err, "to be tried again without the other")
	assert.Equal(t, refusal, steps[1].Err)
	assert.False(t, blame(steps, []*podweft.OpError{refusal}), "blamed already: it cannot have failed again")
}

func TestARefusedRuleStopsAll(t *testing.T) {
	steps := compare(name, nil, want)
	rule := failed(want.rules[1], unix.ENOENT)
	require.False(t, blame(steps, []*podweft.OpError{failed(steps[8].Object, unix.EEXIST), rule}))
	fail(steps, explain(rule))
	plan := planOf(steps)
	for _, c := range plan {
		require.Error(t, c.Err, c.Object)
	}
	err := failures(plan)
	require.ErrorIs(t, err, podweft.ErrNotSupported)
	require.ErrorIs(t, err, unix.ENOENT)
	assert.Equal(t, "create rule inet podweft-nat postrouting ip saddr @pods4 ip daddr != @exempt4 masquerade fully-random "+
		`comment "pods leave the cluster": not supported by this kernel: masquerade, or another expression of the rule, is missing: `+
		"no such file or directory", err.Error(), "once, though every change failed for it")
}

func TestExplain(t *testing.T) {
	tests := []struct {
		name   string
		object podweft.Object
		errno  error
		want   error
	}{
		{"no nat in inet, as before 5.2", want.chains[0], unix.ENOENT, podweft.ErrNotSupported},
		{"no nat in inet, as another kernel says it", want.chains[0], unix.EOPNOTSUPP, podweft.ErrNotSupported},
		{"no masquerade", want.rules[1], unix.ENOENT, podweft.ErrNotSupported},
		{"no memory for a chain", want.chains[0], unix.ENOMEM, nil},
		{"a set that is gone", pods, unix.ENOENT, nil},
		{"no privilege", name, unix.EPERM, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := explain(failed(test.object, test.errno))
			require.ErrorIs(t, err, test.errno)
			if test.want != nil {
				require.ErrorIs(t, err, test.want)
			} else {
				require.NotErrorIs(t, err, podweft.ErrNotSupported)
			}
		})
	}
}

// passes is a driver whose objects fail in the first pass; it hands the next pass to then.
type passes struct {
	failing podweft.Plan
	then    chan podweft.Pass
	applied int
}

func (p *passes) Plan(context.Context, int) (podweft.Plan, error) { return p.failing, nil }

func (p *passes) Watch(ctx context.Context, changed func()) error {
	changed()
	<-ctx.Done()
	return nil
}

func (p *passes) Apply(ctx context.Context, _ int) (podweft.Plan, error) {
	if p.applied++; p.applied == 1 {
		return p.failing, p.failing.Err()
	}
	p.then <- podweft.PassOf(ctx)
	return nil, nil
}

// passAfter returns the pass that a loop runs right after objects have failed.
func passAfter(t *testing.T, objects ...podweft.Object) podweft.Pass {
	t.Helper()
	d := &passes{then: make(chan podweft.Pass, 9)}
	for _, o := range objects {
		d.failing = append(d.failing, podweft.Change{Op: podweft.Create, Object: o, Err: failed(o, unix.EEXIST)})
	}
	loop := podweft.NewLoop[int](d, podweft.LoopConfig{RetryMin: time.Hour, RetryMax: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	require.Error(t, loop.Wait(ctx, loop.Set(1)))
	loop.Set(2)
	pass := <-d.then
	cancel()
	require.NoError(t, <-done)
	return pass
}

func TestHeldElementsAreLeftOutAlone(t *testing.T) {
	steps := elementSteps()
	hold(passAfter(t, steps[0].Object), steps)
	require.ErrorIs(t, steps[0].Err, podweft.ErrHeld)
	require.NoError(t, steps[1].Err)
}

func TestNothingIsTriedWithoutAHeldRule(t *testing.T) {
	steps := compare(name, nil, want)
	hold(passAfter(t, want.rules[0]), steps)
	for _, s := range steps {
		require.ErrorIs(t, s.Err, podweft.ErrHeld, "%s", s.Object)
	}
}

func TestDisjoint(t *testing.T) {
	tests := []struct {
		name     string
		in, want []string
	}{
		{"none", nil, nil},
		{"sorted", []string{"10.2.0.0/16", "10.1.0.0/16", "fd00::/8", "::1/128"}, []string{"10.1.0.0/16", "10.2.0.0/16", "::1/128", "fd00::/8"}},
		{"contained", []string{"10.1.0.0/16", "10.0.0.0/8", "10.1.2.0/24"}, []string{"10.0.0.0/8"}},
		{"twice", []string{"10.1.0.0/16", "10.1.0.0/16"}, []string{"10.1.0.0/16"}},
		{"everything", []string{"10.1.0.0/16", "0.0.0.0/0", "fd00::/8"}, []string{"0.0.0.0/0", "fd00::/8"}},
		{"behind a narrow one", []string{"10.0.0.0/24", "10.0.0.0/16", "10.0.200.0/24"}, []string{"10.0.0.0/16"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var in []netip.Prefix
			for _, text := range test.in {
				in = append(in, netip.MustParsePrefix(text))
			}
			var got []string
			for _, p := range disjoint(in) {
				got = append(got, p.String())
			}
			assert.Equal(t, test.want, got)
		})
	}
}
