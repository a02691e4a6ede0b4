package kube_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/kube"
	"github.com/podweft/podweft/subnet"
)

func TestPrefix(t *testing.T) {
	for _, tt := range []struct {
		name   string
		prefix string
		want   string
	}{
		{"flannel's", "", "flannel.alpha.coreos.com/public-ip"},
		{"a domain", "example.com", "example.com/public-ip"},
		{"with its slash", "example.com/", "example.com/public-ip"},
		{"and a word", "example.com/blue", "example.com/blue-public-ip"},
		{"with its hyphen", "example.com/blue-", "example.com/blue-public-ip"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := kube.Annotations{Prefix: tt.prefix}
			require.NoError(t, a.Validate())
			patch, err := a.Patch(&corev1.Node{}, &subnet.Lease{Node: "node-3", Underlay: addrs("192.0.2.3")})
			require.NoError(t, err)
			require.Contains(t, patch, tt.want)
			assert.Equal(t, "192.0.2.3", *patch[tt.want])
		})
	}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		prefix string
	}{
		{"two slashes", "example.com/blue/green"},
		{"no domain", "/blue"},
		{"a space", "exam ple.com"},
		{"too long a word", "example.com/" + strings.Repeat("x", 42)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := kube.Annotations{Prefix: tt.prefix}.Validate()
			assert.ErrorIs(t, err, podweft.ErrInvalid)
			assert.EqualError(t, err, `Prefix: "`+tt.prefix+`" cannot begin the name of an annotation: `+
				`write a domain, "example.com", or a domain and a word of at most 41 characters, "example.com/blue"`)
		})
	}
	for _, tt := range []struct {
		name   string
		prefix string
	}{
		{"the longest word", "example.com/" + strings.Repeat("x", 41)},
		{"capitals", "Example.com/Blue"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.NoError(t, kube.Annotations{Prefix: tt.prefix}.Validate())
		})
	}
}
