package iptables

import (
	"fmt"
	"strings"
)

// Text is what a Driver of cfg would make for spec, as `ipset restore`, `iptables-restore --noflush` and `ip6tables-restore
// --noflush` read it. It asks no kernel. The zero Spec's is empty.
func Text(cfg Config, spec Spec) (string, error) {
	if err := cfg.Validate(); err != nil {
		return "", err
	}
	if err := spec.Validate(); err != nil {
		return "", err
	}
	var b strings.Builder
	for _, f := range families {
		c := compare(cfg.names(), newImage(f), cfg.render(f, spec))
		if len(c.plan) > 0 {
			fmt.Fprintf(&b, "# ipset -exist restore\n%s# %s-restore --noflush\n%s", &c.before, f.tool, &c.rules)
		}
	}
	return b.String(), nil
}
