package nat_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/nat"
)

func TestValidate(t *testing.T) {
	tests := []struct {
		name string
		spec nat.Spec
		want string // empty: it is fine
	}{
		{"nothing", nat.Spec{}, ""},
		{"usual", nodeSpec(), ""},
		{"overlaps", nat.Spec{Masquerade: prefixes("10.0.0.0/8", "10.1.0.0/16"), Exempt: prefixes("10.1.0.0/16")}, ""},
		{"nothing is masqueraded", nat.Spec{Masquerade: prefixes("10.1.0.0/16"), Exempt: prefixes("0.0.0.0/0", "::/0")}, ""},
		{
			"no prefix", nat.Spec{Masquerade: make([]netip.Prefix, 1)},
			"Masquerade[0]: is not a prefix: write one like 10.244.1.0/24",
		},
		{
			"an interface's address", nat.Spec{Masquerade: prefixes("10.244.1.0/24", "10.244.2.1/24")},
			"Masquerade[1]: 10.244.2.1/24 has bits set behind its prefix length: write 10.244.2.0/24",
		},
		{
			"everybody", nat.Spec{Masquerade: prefixes("::/0")},
			"Masquerade[0]: ::/0 is every address, this node's own included: name this node's pod prefix",
		},
		{
			"IPv4 in IPv6", nat.Spec{Exempt: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 104)}},
			"Exempt[0]: ::ffff:10.0.0.0/104 is an IPv4 address written as IPv6: write 10.0.0.0 and its own prefix length",
		},
		{
			"all at once", nat.Spec{Masquerade: make([]netip.Prefix, 1), Exempt: prefixes("fd00::1/64")},
			"Masquerade[0]: is not a prefix: write one like 10.244.1.0/24\n" +
				"Exempt[0]: fd00::1/64 has bits set behind its prefix length: write fd00::/64",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := test.spec.Validate()
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, test.want)
			require.ErrorIs(t, err, podweft.ErrInvalid)
		})
	}
}

func TestOwnerMustFitInAName(t *testing.T) {
	for _, owner := range []string{"a b", "-x", "x;y", "é", string(make([]byte, 65))} {
		_, err := nat.New(nat.Config{Owner: owner})
		var field *podweft.FieldError
		require.ErrorAs(t, err, &field, "%q", owner)
		assert.Equal(t, "Owner", field.Field)
	}
}
