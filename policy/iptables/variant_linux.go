package iptables

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"

	"github.com/podweft/podweft"
)

// find returns the programs to use, and fails if there are none.
func find(ctx context.Context, cfg Config) (tools, Variant, error) {
	t := tools{netns: cfg.NetNS}
	variant := cfg.Variant
	if variant == "" {
		variant = t.inUse(ctx)
	}
	if _, err := exec.LookPath("ipset"); err != nil {
		return t, "", missing("ipset", err)
	}
	if t.affix = "-" + string(variant); variant != "" && installed(t.affix) {
		return t, variant, nil
	}
	if t.affix = ""; !installed("") {
		_, err := exec.LookPath("iptables-restore")
		return t, "", missing("iptables-restore", err)
	}
	called, err := t.called(ctx)
	if err == nil && variant != "" && called != variant {
		err = &podweft.OpError{Op: "find", Object: podweft.Named("iptables-" + string(variant) + "-restore"),
			Err: fmt.Errorf("%w: the only iptables here is of the variant %s", podweft.ErrNotSupported, called)}
	}
	return t, called, err
}

func missing(program string, err error) error {
	return &podweft.OpError{Op: "find", Object: podweft.Named(program), Err: explain(program, "", "", err)}
}

// installed reports whether all programs of that name are there.
func installed(affix string) bool {
	for _, f := range families {
		for _, end := range []string{"-save", "-restore"} {
			if _, err := exec.LookPath(f.tool + affix + end); err != nil {
				return false
			}
		}
	}
	return true
}

var inParentheses = regexp.MustCompile(`\((legacy|nf_tables)\)`)

// called is the variant of the iptables that is called so.
func (t tools) called(ctx context.Context) (Variant, error) {
	out, err := t.run(ctx, "", "iptables-restore", "--version")
	if m := inParentheses.FindSubmatch(out); err == nil && m != nil && string(m[1]) == "nf_tables" {
		return NFT, nil
	}
	return Legacy, err // iptables said nothing of variants when there was one, before 1.8
}

// hints are chains of mangle that kubelet makes for those who ask what we ask here (kubernetes/enhancements, KEP-3178).
var hints = regexp.MustCompile(`(?m)^:(KUBE-IPTABLES-HINT|KUBE-KUBELET-CANARY) `)

// inUse is the variant that others use: the one with kubelet's hint, or else the one with more rules, or "". It asks in the order of
// Kubernetes' iptables-wrapper: as long as nobody looks, there are no legacy tables.
func (t tools) inUse(ctx context.Context) Variant {
	counts := map[Variant]int{}
	for _, v := range []Variant{NFT, Legacy} {
		for _, f := range families {
			out, err := t.run(ctx, "", f.tool+"-"+string(v)+"-save")
			if err != nil {
				continue // not installed, or of a family that the kernel lacks
			}
			if hints.Match(out) {
				return v
			}
			counts[v] += bytes.Count(out, []byte("\n-A "))
		}
	}
	switch {
	case counts[Legacy] > counts[NFT]:
		return Legacy
	case counts[NFT] > 0:
		return NFT
	}
	return ""
}
