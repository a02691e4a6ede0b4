package calico

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// cni is the configuration by which a runtime attaches pods to an agent's network: that of podweft-cni, which asks the agent for
// addresses.
func (c Config) cni(mtu int) ([]byte, error) {
	c = c.withDefaults()
	type object = map[string]any
	return json.MarshalIndent(object{
		"cniVersion": "1.0.0",
		"name":       c.Network,
		"plugins": []object{{
			"type": "podweft-cni", "mode": "ptp", "mtu": mtu, "stateDir": c.StateDir,
			"ipam":         object{"type": "podweft-agent"},
			"requireAgent": c.Policies != nil, // one that ends between a pod's address and its policies lets nobody through
			"capabilities": object{"portMappings": true, "bandwidth": true},
		}},
	}, "", "  ")
}

// writeCNI puts it where the runtime looks for it.
func (c Config) writeCNI(mtu int) error {
	raw, err := c.cni(mtu)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(c.CNIConf), 0o755)
	}
	if err == nil {
		err = replaceFile(c.CNIConf, append(raw, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("CNI configuration: %w", err)
	}
	return nil
}
