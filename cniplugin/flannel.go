package cniplugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// defaultFlannelDir is where flannel's plugin keeps a file for each container.
const defaultFlannelDir = "/var/lib/cni/flannel"

// flannel turns a configuration of flannel's plugin into that of the plugin which does the work, as flannel's does:
// what "delegate" says, completed from the subnet file.
func (c *config) flannel() (*config, error) {
	for _, field := range []string{"name", "ipam"} {
		if _, ok := c.Delegate[field]; ok {
			return nil, &Error{Code: CodeConfig, Msg: fmt.Sprintf("delegate.%s is not allowed: write it beside delegate", field)}
		}
	}
	lease, err := c.readLease()
	if err != nil {
		return nil, err
	}
	d := map[string]any{}
	for k, v := range c.Delegate {
		d[k] = v
	}
	setUnless(d, "type", "bridge")
	setUnless(d, "mtu", lease.mtu)
	setUnless(d, "ipMasq", !lease.ipMasq)
	kind, err := text(d["type"])
	if err != nil {
		return nil, fail(CodeConfig, "delegate.type is not a name", err)
	}
	if kind == "bridge" {
		setUnless(d, "isGateway", true)
	}
	d["name"] = c.Name
	d["cniVersion"] = c.CNIVersion
	if d["ipam"], err = c.flannelIPAM(lease); err != nil {
		return nil, err
	}
	fields := carried
	if inProcess(kind) {
		fields = slices.Concat(carried, chained())
	}
	return c.as(d, fields)
}

// flannelIPAM is the configuration of the addresses: the given one, with the node's subnets and a way to the cluster.
func (c *config) flannelIPAM(lease subnetFile) (map[string]any, error) {
	var given struct {
		IPAM map[string]json.RawMessage `json:"ipam"`
	}
	if err := json.Unmarshal(c.raw, &given); err != nil {
		return nil, fail(CodeDecode, "ipam is not an object", err)
	}
	all := map[string]any{}
	for k, v := range given.IPAM {
		all[k] = v
	}
	setUnless(all, "type", "host-local")
	var ranges [][]map[string]string
	for _, s := range lease.subnets {
		ranges = append(ranges, []map[string]string{{"subnet": s.Masked().String()}})
	}
	all["ranges"] = ranges
	var routes []any
	for _, r := range c.IPAM.Routes {
		routes = append(routes, r.asCNI())
	}
	for _, n := range lease.networks {
		routes = append(routes, map[string]string{"dst": n.String()})
	}
	all["routes"] = routes
	return all, nil
}

func (r ipRoute) asCNI() map[string]any {
	m := map[string]any{"dst": r.Dst}
	for k, v := range map[string]int{"mtu": r.MTU, "advmss": r.AdvMSS, "priority": r.Priority, "table": r.Table, "scope": r.Scope} {
		if v != 0 {
			m[k] = v
		}
	}
	if r.GW != "" {
		m["gw"] = r.GW
	}
	return m
}

// carried are the fields that the specification's runtime fills in, and ours, which the delegate gets as they came.
var carried = []string{
	"runtimeConfig", "prevResult", "args", "cni.dev/valid-attachments", "cni.dev/attachments", "stateDir", "logFile", "logLevel",
	"requireAgent",
}

// chained are the fields of the plugins that users put behind flannel's, and that we need not have there: they are ours to serve where
// the delegate is.
func chained() (names []string) {
	for _, f := range slices.Concat((&portmapConfig{}).fields(), (&bandwidth{}).fields()) {
		names = append(names, f.name)
	}
	return names
}

// as is the configuration d with the fields of ours that it is to have.
func (c *config) as(d map[string]any, fields []string) (*config, error) {
	full := maps.Clone(d)
	for _, field := range fields {
		if v, ok := c.came[field]; ok {
			setUnless(full, field, v)
		}
	}
	raw, err := json.Marshal(full)
	if err != nil {
		return nil, fail(CodeDecode, "the delegate's configuration", err)
	}
	one, err := parseConfig(raw)
	one.lease = c.lease
	return one, err
}

func setUnless(m map[string]any, key string, value any) {
	if _, there := m[key]; !there {
		m[key] = value
	}
}

func text(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case json.RawMessage:
		var s string
		err := json.Unmarshal(v, &s)
		return s, err
	}
	return "", errors.New("is not text")
}

func (c *config) subnetFile() string {
	if c.SubnetFile != "" {
		return c.SubnetFile
	}
	return DefaultSubnetFile
}
