package cniplugin

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// field is a name in an object, and where its value goes.
type field struct {
	name string
	to   any
}

// decode reads an object's fields as package json reads a struct's: whatever their case, but rather as they are written here. Of a
// struct that learns by reflection all that may ever lie in it before it reads the first value, which took a plugin, that reads
// one configuration in its life, five times as long; this learns of what is there.
func decode(raw []byte, fields []field) error {
	var came map[string]json.RawMessage
	if err := json.Unmarshal(raw, &came); err != nil {
		return err
	}
	return assign(came, fields)
}

// assign does so with an object whose fields are apart already.
func assign(came map[string]json.RawMessage, fields []field) error {
	names := slices.Sorted(maps.Keys(came))
	for _, f := range fields {
		value, ok := came[f.name]
		if !ok {
			i := slices.IndexFunc(names, func(name string) bool { return strings.EqualFold(name, f.name) })
			if i < 0 {
				continue
			}
			value = came[names[i]]
		}
		if err := json.Unmarshal(value, f.to); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return nil
}

func (c *config) fields() []field {
	return []field{
		{"cniVersion", &c.CNIVersion},
		{"name", &c.Name},
		{"type", &c.Type},
		{"args", &c.Args},
		{"runtimeConfig", &c.RuntimeConfig},
		{"prevResult", &c.PrevResult},
		{"dns", &c.DNS},
		{"cni.dev/valid-attachments", &c.Valid},
		{"cni.dev/attachments", &c.Attachments},
		{"mode", &c.Mode},
		{"bridge", &c.Bridge},
		{"mtu", &c.MTU},
		{"isGateway", &c.IsGateway},
		{"isDefaultGateway", &c.IsDefaultGateway},
		{"hairpinMode", &c.HairpinMode},
		{"portIsolation", &c.PortIsolation},
		{"ipMasq", &c.IPMasq},
		{"ipam", &c.IPAM},
		{"vlan", &c.Vlan},
		{"vlanTrunk", &c.VlanTrunk},
		{"macspoofchk", &c.MacSpoofChk},
		{"disableContainerInterface", &c.NoInterface},
		{"enabledad", &c.EnableDAD},
		{"subnetFile", &c.SubnetFile},
		{"dataDir", &c.DataDir},
		{"delegate", &c.Delegate},
		{"stateDir", &c.StateDir},
		{"logFile", &c.LogFile},
		{"logLevel", &c.LogLevel},
		{"requireAgent", &c.RequireAgent},
	}
}

// UnmarshalJSON reads what the runtime has filled in.
func (r *runtimeConfig) UnmarshalJSON(raw []byte) error { return decode(raw, r.fields()) }

func (r *runtimeConfig) fields() []field {
	return []field{
		{"portMappings", &r.PortMappings},
		{"ips", &r.IPs},
		{"mac", &r.MAC},
		{"ipRanges", &r.IPRanges},
		{"dns", &r.DNS},
		{"bandwidth", &r.Bandwidth},
	}
}

// UnmarshalJSON reads limits.
func (b *bandwidth) UnmarshalJSON(raw []byte) error { return decode(raw, b.fields()) }

func (b *bandwidth) fields() []field {
	return []field{
		{"ingressRate", &b.IngressRate},
		{"ingressBurst", &b.IngressBurst},
		{"egressRate", &b.EgressRate},
		{"egressBurst", &b.EgressBurst},
	}
}

// UnmarshalJSON reads the part about addresses.
func (i *ipamConfig) UnmarshalJSON(raw []byte) error { return decode(raw, i.fields()) }

func (i *ipamConfig) fields() []field {
	return []field{
		{"type", &i.Type},
		{"ranges", &i.Ranges},
		{"routes", &i.Routes},
		{"resolvConf", &i.ResolvConf},
		{"dataDir", &i.DataDir},
		{"reserved", &i.Excluded},
		{"subnet", &i.Subnet},
		{"rangeStart", &i.RangeStart},
		{"rangeEnd", &i.RangeEnd},
		{"gateway", &i.Gateway},
	}
}
