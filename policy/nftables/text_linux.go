package nftables

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/podweft/podweft/internal/nft"
)

// Text is the table that a Driver of cfg would make for spec, but for whose own it is, as `nft -f` reads it. It asks no kernel. The zero Spec's is empty.
func Text(cfg Config, spec Spec) (string, error) {
	if err := cfg.Validate(); err != nil {
		return "", err
	}
	if err := spec.Validate(); err != nil {
		return "", err
	}
	if spec.Rules == nil {
		return "", nil
	}
	r := renderer{table: cfg.table(), group: cfg.LogGroup, audit: spec.Audit, strict: spec.Strict, im: newImage(), rules: spec.Rules}
	r.all(spec)
	var b strings.Builder
	fmt.Fprintf(&b, "%s {\n", r.table)
	for _, name := range slices.Sorted(maps.Keys(r.im.sets)) {
		r.im.sets[name].write(&b)
	}
	for _, name := range slices.Concat(chainNames(r.im, true), chainNames(r.im, false)) {
		r.im.chains[name].write(&b)
	}
	b.WriteString("}\n")
	return b.String(), nil
}

func (s *set) write(b *strings.Builder) {
	word, kind := "set", s.Key.String()
	if s.Data != 0 {
		word, kind = "map", kind+" : "+s.Data.String()
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\ttype %s\n", word, s.Name, kind)
	if s.Interval {
		b.WriteString("\t\tflags interval\n")
	}
	for i, e := range s.elements {
		b.WriteString([...]string{"\t\telements = { ", ",\n\t\t             "}[min(i, 1)])
		b.WriteString(nft.SetElement{Set: s.Set, Element: e}.Text())
	}
	if len(s.elements) > 0 {
		b.WriteString(" }\n")
	}
	b.WriteString("\t}\n")
}

func (c *chain) write(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.Name)
	if base := c.Base; base != (nft.Base{}) {
		fmt.Fprintf(b, "\t\ttype %s hook %s priority %d; policy %s;\n", base.Type, base.Hook, base.Priority, base.Policy)
	}
	for _, r := range c.rules {
		fmt.Fprintf(b, "\t\t%s", r.Text)
		if r.Comment != "" {
			fmt.Fprintf(b, " comment %q", r.Comment)
		}
		b.WriteByte('\n')
	}
	b.WriteString("\t}\n")
}
