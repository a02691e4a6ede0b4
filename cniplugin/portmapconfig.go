package cniplugin

import (
	"errors"
	"fmt"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/node/local"
)

// portmapConfig is the part of a configuration that is the portmap plugin's. It counts wherever host ports are asked for, and is read
// only then: elsewhere its names may be another plugin's.
type portmapConfig struct {
	SNAT                 *bool
	Backend              *string
	ConditionsV4         []string
	ConditionsV6         []string
	MasqAll              bool
	MarkMasqBit          *int
	ExternalSetMarkChain *string
}

func (p *portmapConfig) fields() []field {
	return []field{
		{"snat", &p.SNAT},
		{"backend", &p.Backend},
		{"conditionsV4", &p.ConditionsV4},
		{"conditionsV6", &p.ConditionsV6},
		{"masqAll", &p.MasqAll},
		{"markMasqBit", &p.MarkMasqBit},
		{"externalSetMarkChain", &p.ExternalSetMarkChain},
	}
}

// toPublish are the host ports that the runtime asks for, as the configuration wants them opened.
func (c *config) toPublish() ([]local.HostPort, error) {
	ports, err := c.hostPorts()
	if err != nil || len(ports) == 0 {
		return nil, err
	}
	var p portmapConfig
	if err := c.read(p.fields()); err != nil {
		return nil, err
	}
	if err := errors.Join(p.refuse(), p.check()); err != nil {
		return nil, err
	}
	for i := range ports {
		ports[i].KeepSource = !is(p.SNAT, true)
	}
	return ports, nil
}

// refuse names the fields that this plugin cannot serve: a host port is open to everybody, or is not opened.
func (p *portmapConfig) refuse() error {
	var errs []error
	for i, conditions := range [][]string{p.ConditionsV4, p.ConditionsV6} {
		if len(conditions) > 0 {
			field := []string{"conditionsV4", "conditionsV6"}[i]
			errs = append(errs, unsupported(field, conditions, "leave it out, and let a policy say who reaches the pod"))
		}
	}
	if p.MasqAll {
		errs = append(errs, unsupported("masqAll", true, "leave it out: who asks keeps its address, but where answers would go past the node"))
	}
	return errors.Join(errs...)
}

// check reports what portmap itself would, of fields that make no difference here: host ports are in nftables, beside which the rules of
// iptables go on to work, and no packet is marked to be masqueraded later.
func (p *portmapConfig) check() error {
	var errs []error
	bad := func(field string, value any, problem, remedy string) {
		errs = append(errs, &podweft.FieldError{Field: field, Value: value, Problem: problem, Remedy: remedy})
	}
	const remedy = "leave it out: nothing is marked here"
	errs = append(errs, checkBackend("backend", p.Backend))
	if bit := p.MarkMasqBit; bit != nil && (*bit < 0 || *bit > 31) {
		bad("markMasqBit", *bit, "is no bit of a mark", "use 0 to 31, or "+remedy)
	}
	switch chain := p.ExternalSetMarkChain; {
	case chain == nil:
	case p.MarkMasqBit != nil:
		bad("externalSetMarkChain", fmt.Sprintf("%q", *chain), "cannot be beside markMasqBit", remedy)
	case p.Backend != nil && *p.Backend == "nftables":
		bad("externalSetMarkChain", fmt.Sprintf("%q", *chain), "is a chain of iptables, and the backend nftables", remedy)
	}
	return errors.Join(errs...)
}

// checkBackend reports one that the reference plugins do not know either. Whichever they are told, we write nftables, and it is all the
// same to who uses it.
func checkBackend(field string, backend *string) error {
	if backend == nil || *backend == "iptables" || *backend == "nftables" {
		return nil
	}
	return &podweft.FieldError{
		Field: field, Value: fmt.Sprintf("%q", *backend), Problem: "is no backend",
		Remedy: `write "iptables" or "nftables", which are the same here, or leave it out`,
	}
}
