package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/podweft/podweft/policy"
)

func TestDenied(t *testing.T) {
	c := policy.Counts{
		Rules: []policy.RuleCount{
			{Action: policy.Accept, Count: policy.Count{Packets: 1000, Bytes: 9000}},
			{Action: policy.Deny, Count: policy.Count{Packets: 1, Bytes: 60}},
		},
		Isolated: []policy.IsolationCount{{Count: policy.Count{Packets: 10, Bytes: 600}}, {Count: policy.Count{Packets: 20, Bytes: 1200}}},
		Closed:   policy.Count{Packets: 300, Bytes: 18000},
	}
	assert.Equal(t, policy.Count{Packets: 331, Bytes: 19860}, c.Denied())
}
