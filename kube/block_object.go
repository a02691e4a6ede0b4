package kube

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/ipam/block"
)

//go:embed blocks.yaml
var blockDefinition string

// BlockDefinition is the CustomResourceDefinition that a [BlockStore] needs in the cluster, as YAML.
func BlockDefinition() string { return blockDefinition }

var blockVersion = schema.GroupVersion{Group: "podweft.github.io", Version: "v1alpha1"}

const blockResource = "blocks"

// blockObject is a block as the cluster has it. What is in Spec is decoded by itself, so that an object which makes no sense is no
// more than that.
type blockObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              json.RawMessage `json:"spec"`
}

// blockSpec is what is in a blockObject's Spec.
type blockSpec struct {
	block.Block
	Settled bool `json:"settled,omitempty"`
}

// blockList is the answer to a list.
type blockList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []blockObject `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (o *blockObject) DeepCopyObject() runtime.Object {
	c := *o
	c.ObjectMeta = *o.ObjectMeta.DeepCopy()
	c.Spec = bytes.Clone(o.Spec)
	return &c
}

// DeepCopyObject implements runtime.Object.
func (l *blockList) DeepCopyObject() runtime.Object {
	c := *l
	c.ListMeta = *l.ListMeta.DeepCopy()
	c.Items = make([]blockObject, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*blockObject)
	}
	return &c
}

// addBlocks is all that a client of blocks has to know of Kubernetes.
func addBlocks(scheme *runtime.Scheme) error {
	scheme.AddKnownTypeWithName(blockVersion.WithKind("Block"), &blockObject{})
	scheme.AddKnownTypeWithName(blockVersion.WithKind("BlockList"), &blockList{})
	metav1.AddToGroupVersion(scheme, blockVersion)
	return nil
}

// blockName is the name of the prefix's object: 10.244.3.64-26, fd00-0000-0000-0000-0000-0000-0000-0040-122.
func blockName(p netip.Prefix) string {
	return strings.ReplaceAll(p.Addr().StringExpanded(), ":", "-") + fmt.Sprintf("-%d", p.Bits())
}

// newBlockObject is b as an object that is to be written in the place of one of its revision.
func newBlockObject(b block.Block, settled bool) (*blockObject, error) {
	spec, err := json.Marshal(blockSpec{Block: b, Settled: settled})
	if err != nil {
		return nil, err
	}
	return &blockObject{
		TypeMeta:   metav1.TypeMeta{APIVersion: blockVersion.String(), Kind: "Block"},
		ObjectMeta: metav1.ObjectMeta{Name: blockName(b.Prefix), ResourceVersion: b.Revision},
		Spec:       spec,
	}, nil
}

// decode reads the block.
func (o *blockObject) decode() (b block.Block, settled bool, err error) {
	var spec blockSpec
	err = json.Unmarshal(o.Spec, &spec)
	if err == nil {
		err = spec.Validate()
	}
	switch {
	case err != nil:
	case blockName(spec.Prefix) != o.Name:
		err = fmt.Errorf("it is about %s", spec.Prefix)
	case len(spec.Shares) == 0:
		err = errors.New("there are no shares")
	}
	if err != nil {
		// It may not be skipped: no block could ever be made in its place, and whoever has it may be alive.
		return block.Block{}, false, &podweft.FieldError{
			Field: "blocks/" + o.Name, Problem: "does not have a block: " + err.Error(),
			Remedy: "mend it, or delete it if no node has pods there",
		}
	}
	spec.Revision = o.ResourceVersion
	return spec.Block, spec.Settled, nil
}
