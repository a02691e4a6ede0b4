package vxlan

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

// Type is the backend's name in leases and in net-conf.json.
const Type = "vxlan"

// LeaseData is what a node publishes about one of its VTEPs, in the form that flannel's nodes write and read.
type LeaseData struct {
	VNI     uint32      `json:"VNI"`
	VtepMAC podweft.MAC `json:"VtepMAC"`
}

// backendConfig is the "Backend" object of net-conf.json with the fields that are ours.
type backendConfig struct {
	VNI           uint32
	Port          uint16
	MTU           int // of the underlay, in bytes; 0 means that of the interface
	GBP           bool
	Learning      bool
	DirectRouting bool
}

func parseConfig(network *subnet.Network) (backendConfig, error) {
	c := backendConfig{VNI: DefaultVNI}
	if network == nil || len(network.Backend.Config) == 0 {
		return c, nil
	}
	if err := json.Unmarshal(network.Backend.Config, &c); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return c, &podweft.FieldError{Field: "Backend." + wrong.Field, Value: wrong.Value, Problem: "does not fit", Remedy: "write a " + wrong.Type.String()}
		}
		return c, &podweft.FieldError{Field: "Backend", Problem: err.Error()}
	}
	if c.VNI == 0 || c.VNI > maxVNI {
		return c, &podweft.FieldError{Field: "Backend.VNI", Value: c.VNI, Problem: "is not a VNI", Remedy: "use 1 to 16777215"}
	}
	if c.MTU != 0 && c.MTU < minMTU(VTEP{})+Overhead(netip.IPv6Unspecified()) {
		return c, &podweft.FieldError{Field: "Backend.MTU", Value: c.MTU, Problem: "leaves no room for packets of pods", Remedy: "give the underlay's, or leave it out"}
	}
	return c, nil
}

// Publish returns what this node's lease says about its VTEPs, and the MTU that is left for pods, in bytes: with two VTEPs
// the smaller one. A VTEP keeps the MAC that before, the node's previous lease, published for it; without one it gets a new
// MAC.
func Publish(node subnet.Node, network *subnet.Network, before subnet.Data) (subnet.Data, int, error) {
	c, err := parseConfig(network)
	if err != nil {
		return subnet.Data{}, 0, err
	}
	if network == nil {
		return subnet.Data{}, 0, &podweft.FieldError{Field: "Network", Problem: "is missing", Remedy: "take it from the store's snapshot"}
	}
	var data subnet.Data
	mtu := 0
	for _, local := range carriers(subnet.Prefixes{V4: network.V4.Network, V6: network.V6.Network}, node.Underlay) {
		mac := podweft.NewMAC()
		if old, err := parseLeaseData(dataOf(before, local)); err == nil {
			mac = old.VtepMAC
		}
		raw, err := json.Marshal(LeaseData{VNI: c.VNI, VtepMAC: mac})
		if err != nil {
			return subnet.Data{}, 0, err
		}
		if local.Is4() {
			data.V4 = raw
		} else {
			data.V6 = raw
		}
		if m := podMTU(node, c, local); mtu == 0 || m < mtu {
			mtu = m
		}
	}
	return data, mtu, nil
}

func podMTU(node subnet.Node, c backendConfig, local netip.Addr) int {
	if c.MTU != 0 {
		return c.MTU - Overhead(local)
	}
	return node.MTU - Overhead(local)
}

// dataOf is what was published for the VTEP that has the underlay's family.
func dataOf(d subnet.Data, underlay netip.Addr) json.RawMessage {
	if underlay.Is4() {
		return d.V4
	}
	return d.V6
}

func parseLeaseData(raw json.RawMessage) (LeaseData, error) {
	var d LeaseData
	if len(raw) == 0 {
		return d, &podweft.FieldError{Field: "BackendData", Problem: "is missing"}
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		return d, &podweft.FieldError{Field: "BackendData", Value: fmt.Sprintf("%.100q", raw), Problem: "does not say a VTEP's MAC", Remedy: err.Error()}
	}
	if !d.VtepMAC.IsUnicast() {
		return d, &podweft.FieldError{Field: "VtepMAC", Value: d.VtepMAC, Problem: "is not one station's address"}
	}
	return d, nil
}
