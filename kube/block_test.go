package kube

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/ipam/block"
)

func TestBlockName(t *testing.T) {
	for prefix, want := range map[string]string{
		"10.244.3.64/26": "10.244.3.64-26",
		"fd00::40/122":   "fd00-0000-0000-0000-0000-0000-0000-0040-122",
	} {
		assert.Equal(t, want, blockName(netip.MustParsePrefix(prefix)))
		assert.Empty(t, validation.IsDNS1123Subdomain(want))
	}
}

func TestBlockObjectAndBack(t *testing.T) {
	p := netip.MustParsePrefix("10.0.0.0/26")
	b := block.Block{Prefix: p, Node: "a", Shares: []block.Share{{Prefix: p, Node: "b"}}, Revision: "7"}
	o, err := newBlockObject(b, true)
	require.NoError(t, err)
	got, settled, err := o.DeepCopyObject().(*blockObject).decode()
	require.NoError(t, err)
	assert.True(t, settled)
	assert.Equal(t, b, got)
	list := blockList{Items: []blockObject{*o}}
	assert.Equal(t, &list, list.DeepCopyObject())
}

// The definition is of the kind that the Store writes.
func TestBlockDefinition(t *testing.T) {
	var d struct {
		Kind     string
		Metadata struct{ Name string }
		Spec     struct {
			Group string
			Names struct{ Kind, ListKind, Plural string }
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(BlockDefinition()), &d))
	assert.Equal(t, "CustomResourceDefinition", d.Kind)
	assert.Equal(t, blockVersion.Group, d.Spec.Group)
	assert.Equal(t, blockResource, d.Spec.Names.Plural)
	assert.Equal(t, blockResource+"."+blockVersion.Group, d.Metadata.Name)
	scheme := runtime.NewScheme()
	require.NoError(t, addBlocks(scheme))
	for _, kind := range []string{d.Spec.Names.Kind, d.Spec.Names.ListKind} {
		assert.True(t, scheme.Recognizes(blockVersion.WithKind(kind)), kind)
	}
}

func TestBlockConfigIsChecked(t *testing.T) {
	_, err := NewBlockStore(BlockConfig{Timeout: -1})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	assert.ErrorContains(t, err, "Client")
	assert.ErrorContains(t, err, "Timeout")
	s, err := NewBlockStore(BlockConfig{Client: &rest.Config{Host: "192.0.2.1"}})
	require.NoError(t, err, "nobody is asked")
	require.NoError(t, s.Close())
}

// FuzzBlockObject reads objects that we did not write: refused, or a block as a Store may have it.
func FuzzBlockObject(f *testing.F) {
	f.Add("10.0.0.0-26", []byte(`{"prefix":"10.0.0.0/26","node":"a","shares":[{"prefix":"10.0.0.0/29","node":"a"}],"settled":true}`))
	f.Add("10.0.0.0-26", []byte(`{"prefix":"10.0.0.0/26","shares":[]}`))
	f.Add("", []byte(`null`))
	f.Fuzz(func(t *testing.T, name string, spec []byte) {
		o := blockObject{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "7"}, Spec: spec}
		b, settled, err := o.decode()
		if err != nil {
			require.ErrorIs(t, err, podweft.ErrInvalid)
			return
		}
		require.NoError(t, b.Validate())
		require.NotEmpty(t, b.Shares)
		again, err := newBlockObject(b, settled)
		require.NoError(t, err)
		require.Equal(t, name, again.Name)
		require.True(t, json.Valid(again.Spec))
	})
}
