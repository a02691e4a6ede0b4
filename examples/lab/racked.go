package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/testnet"
)

// With --network calico the lab shows a network without bridges and without a subnet for each node: two racks with a router between
// them, nodes that claim blocks of addresses and tell each other by BGP, and pods that are routed to. Each node's agent is
// podweft-calico, and so is the router: processes, since the BGP engine lives in the network of its process.

// rackedNetwork is the pods': the same as the lab's other one.
const rackedNetwork = `{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48", "Backend": {"Type": "vxlan"}}`

// racked is a cluster over two racks.
type racked struct {
	*cluster
	o      rackedOptions
	racks  *testnet.Racks
	router *speaking
	agents []*speaking                  // by the members' order
	labels map[string]map[string]string // of pods that are nobody but themselves
	cast   *cast                        // who the pods are to policies; nil if they are themselves
}

// build builds the machines, starts nothing, and says to the cluster who its members are.
func (r *racked) build() error {
	racks, err := testnet.BuildRacks(testnet.RacksConfig{Nodes: r.o.nodes})
	if err != nil {
		return fmt.Errorf("build the racks: %w", err)
	}
	r.racks = racks
	r.open = append(r.open, racks)
	r.fabric = &testnet.Fabric{Nodes: racks.Nodes(), Switch: racks.Router, Outside: racks.Outside}
	for _, machine := range r.fabric.Nodes {
		r.members = append(r.members, &member{machine: machine})
	}
	return os.MkdirAll(r.policies(), 0o700)
}

// rackOf is a member's rack: 1 or 2.
func (r *racked) rackOf(m *member) int {
	for i, rack := range r.racks.Racks {
		for _, machine := range rack {
			if machine == m.machine {
				return i + 1
			}
		}
	}
	return 0
}

// policies is where the agents read NetworkPolicies, and the pods that they speak of.
func (r *racked) policies() string { return filepath.Join(r.dir, "policies") }

// start runs the router and the nodes' agents until ctx ends, and returns when pods can be attached and each knows every other.
func (r *racked) start(ctx context.Context) error {
	flags := []string{"tor", "--id=" + routerAddress(r.racks.Racks[0][0].V4).String(), "--links=rack1,rack2"}
	for _, m := range r.members {
		flags = append(flags, fmt.Sprintf("--peer=%s,%d", m.machine.V4, nodesAS))
	}
	var err error
	if r.router, err = r.launch(ctx, r.racks.Router, flags); err != nil {
		return err
	}
	if err := r.writeObjects(); err != nil {
		return err
	}
	for _, m := range r.members {
		s, err := r.launch(ctx, m.machine, r.flags(m))
		if err != nil {
			return err
		}
		r.agents = append(r.agents, s)
	}
	for i, s := range r.agents {
		var last agentStatus
		err := await(ctx, func() bool {
			last, _ = s.status(ctx)
			return last.Ready && (last.BGP == nil || last.BGP.Established == len(r.members)) && last.reached() == len(r.members)-1
		})
		if err != nil {
			return fmt.Errorf("wait for the agent of %s: %w: %s", r.members[i].machine.Name, err, s.lastWords())
		}
	}
	return nil
}

// nodesAS is the nodes', and the router has another.
const (
	nodesAS  = 64512
	routerAS = 64600
)

// routerAddress is the router's in a node's network.
func routerAddress(of netip.Addr) netip.Addr {
	raw := of.As4()
	raw[3] = 254
	return netip.AddrFrom4(raw)
}

// writeObjects says what all agents have in common, in Calico's own objects.
func (r *racked) writeObjects() error {
	var b strings.Builder
	for i, rack := range r.racks.Racks {
		fmt.Fprintf(&b, "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: top-of-rack-%d}\n"+
			"spec: {peerIP: %s, asNumber: %d, nodeSelector: rack == '%d'}\n---\n", i+1, routerAddress(rack[0].V4), routerAS, i+1)
	}
	return os.WriteFile(r.objects(), []byte(b.String()), 0o600)
}

func (r *racked) objects() string { return filepath.Join(r.dir, "calico.yaml") }

// flags are those of a node's agent.
func (r *racked) flags(m *member) []string {
	state := filepath.Join(r.dir, m.machine.Name)
	return []string{
		"--node-name=" + m.machine.Name, fmt.Sprintf("--node-labels=rack=%d", r.rackOf(m)), "--ip=" + m.machine.V4.String(),
		"--store-dir=" + filepath.Join(r.dir, "store"), "--state-dir=" + state, "--cni-conf=" + filepath.Join(state, "cni.conflist"),
		"--ipv4-pool-cidr=" + r.network.V4.Network.String(), "--ipv4-pool-vxlan=" + r.o.vxlan,
		"--ipv6-pool-cidr=" + r.network.V6.Network.String(), "--ipv6-pool-vxlan=" + r.o.vxlan, "--ipv6-pool-nat-outgoing=true",
		"--config=" + r.objects(), "--policies=" + r.policies(),
		"--backend=" + map[string]string{routesByBGP: "bird", routesByStore: "vxlan"}[r.o.routes],
	}
}

// attachPods gives every node its pods.
func (r *racked) attachPods(ctx context.Context) error {
	var all []*pod
	for i, m := range r.members {
		for _, name := range podNames("pod", i+1, r.o.pods) {
			p, err := r.create(m, name)
			if err != nil {
				return err
			}
			all = append(all, p)
		}
	}
	if r.o.policies != nil {
		var err error
		if r.cast, err = newCast(r.cluster, r.o.policies.Model); err != nil {
			return err
		}
	}
	return r.attach(ctx, all...)
}

// create makes a pod that no node has yet.
func (r *racked) create(m *member, name string) (*pod, error) {
	p := &pod{name: name, on: m}
	var err error
	if p.machine, err = testnet.BuildNode(name); err != nil {
		return nil, err
	}
	r.open = append(r.open, p.machine)
	r.labels[name] = map[string]string{"app": name}
	m.pods = append(m.pods, p)
	return p, nil
}

// attach has the CNI plugin attach pods, which the agents are told of before: they let none go that they do not know.
func (r *racked) attach(ctx context.Context, pods ...*pod) error {
	if err := r.tellPods(); err != nil {
		return err
	}
	for _, p := range pods {
		var err error
		if p.addresses, err = r.add(ctx, p); err != nil {
			return fmt.Errorf("attach %s to %s: %w", p.name, p.on.machine.Name, err)
		}
	}
	if r.cast != nil {
		r.cast.locate()
	}
	return r.tellPods()
}

// add is the plugin's ADD, as a runtime calls it, with the configuration that the node's agent has written.
func (r *racked) add(ctx context.Context, p *pod) (addrs []netip.Addr, err error) {
	raw, err := os.ReadFile(filepath.Join(r.dir, p.on.machine.Name, "cni.conflist"))
	if err != nil {
		return nil, err
	}
	var list struct {
		CNIVersion, Name string
		Plugins          []map[string]any
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, err
	}
	conf := list.Plugins[0]
	conf["cniVersion"], conf["name"] = list.CNIVersion, list.Name
	stdin, err := json.Marshal(conf)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	plays := r.part(p)
	code := cniplugin.Run(ctx, cniplugin.Config{NetNS: p.on.machine.NetNS()}, cniplugin.Call{
		Type: "podweft-cni", Stdin: bytes.NewReader(stdin), Stdout: &out, Environ: []string{
			"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + p.name, "CNI_NETNS=" + p.machine.NetNS(), "CNI_IFNAME=eth0",
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=" + plays.Namespace + ";K8S_POD_NAME=" + plays.Name,
		},
	})
	var result struct {
		IPs []struct{ Address netip.Prefix }
		Msg string
	}
	if err := json.Unmarshal(out.Bytes(), &result); err != nil || code != 0 {
		return nil, fmt.Errorf("the plugin says: %s", cmp.Or(result.Msg, out.String()))
	}
	for _, ip := range result.IPs {
		addrs = append(addrs, ip.Address.Addr())
	}
	return addrs, nil
}

// table is the whole cluster: racks, nodes, blocks, pods and addresses.
func (r *racked) table() table {
	var t table
	t.head("rack", "node", "pod", "addresses")
	for _, m := range r.members {
		rack, name := fmt.Sprint(r.rackOf(m)), m.machine.Name
		for _, p := range m.pods {
			t.row(cell{rack, plain}, cell{name, plain}, cell{p.name, bold}, cell{join(p.addresses), cyan})
			rack, name = "", "" // said once
		}
	}
	return t
}
