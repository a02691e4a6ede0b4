package scenario

import (
	"fmt"
	"net/netip"

	"github.com/podweft/podweft/policy"
)

// Cluster is where scenarios begin: two nodes, four namespaces and a few pods of both families, without a policy.
//
//	default        client  role=client            node-1
//	               web     app=web tier=front     node-1    http TCP 80, dns UDP 53, sig SCTP 9999
//	               web2    app=web tier=back      node-2    http TCP 8080, dns UDP 53
//	               other   no labels              node-2
//	               leaving app=web role=client    node-1    http TCP 80; terminating
//	               done    app=web role=client    node-2    finished
//	               agent   app=web role=client    node-1    on the host's network
//	test           client  role=client            node-1
//	  project=test plain   env=dev                node-2
//	prod           api     app=api role=client    node-1    http TCP 8081
//	  project=prod db      app=db env=prod        node-2    sql TCP 5432
//	bare           pod     role=client            node-2
func Cluster() policy.Model {
	http := func(number uint16) policy.NamedPort {
		return policy.NamedPort{Name: "http", Protocol: policy.TCP, Number: number}
	}
	dns := policy.NamedPort{Name: "dns", Protocol: policy.UDP, Number: 53}
	done := pod("default/done", 2, 50, l{"app": "web", "role": "client"}, http(80))
	done.Phase = policy.Finished
	leaving := pod("default/leaving", 1, 51, l{"app": "web", "role": "client"}, http(80))
	leaving.Phase = policy.Terminating
	return policy.Model{
		Nodes: []policy.Node{
			{Name: "node-1", Addresses: addrs("192.0.2.1", "10.244.1.1", "2001:db8::1", "fd00:10:244:1::1")},
			{Name: "node-2", Addresses: addrs("192.0.2.2", "10.244.2.1", "2001:db8::2", "fd00:10:244:2::1")},
		},
		Namespaces: []policy.Namespace{
			namespace("default", nil),
			namespace("test", l{"project": "test"}),
			namespace("prod", l{"project": "prod", "class": "gold"}),
			namespace("bare", nil),
		},
		Pods: []policy.Pod{
			pod("default/client", 1, 11, l{"role": "client"}),
			pod("default/web", 1, 10, l{"app": "web", "tier": "front"}, http(80), dns, policy.NamedPort{Name: "sig", Protocol: policy.SCTP, Number: 9999}),
			pod("default/web2", 2, 10, l{"app": "web", "tier": "back"}, http(8080), dns),
			pod("default/other", 2, 11, nil),
			leaving, done, onHost("default/agent", 1),
			pod("test/client", 1, 20, l{"role": "client"}),
			pod("test/plain", 2, 20, l{"env": "dev"}),
			pod("prod/api", 1, 30, l{"app": "api", "role": "client", "env": "prod"}, http(8081)),
			pod("prod/db", 2, 30, l{"app": "db", "env": "prod"}, policy.NamedPort{Name: "sql", Protocol: policy.TCP, Number: 5432}),
			pod("bare/pod", 2, 40, l{"role": "client"}),
		},
	}
}

// Hosts are addresses outside the cluster, and those of nodes that are not the underlay's, by the names they have in scenarios.
func Hosts() map[string][]netip.Addr {
	return map[string][]netip.Addr{
		"world":         addrs("203.0.113.7", "2001:db8:ffff::7"),
		"world2":        addrs("203.0.113.77", "2001:db8:ffff::77"),
		"far":           addrs("198.51.100.9", "2001:db8:eeee::9"),
		"node-1-bridge": addrs("10.244.1.1", "fd00:10:244:1::1"),
		"node-2-bridge": addrs("10.244.2.1", "fd00:10:244:2::1"),
	}
}

// l is labels.
type l = map[string]string

// pod is a pod of the cluster: host is the last part of its addresses in the subnets of its node.
func pod(path string, node, host int, labels l, ports ...policy.NamedPort) policy.Pod {
	namespace, name := split(path)
	return policy.Pod{
		Namespace: namespace, Name: name, Labels: labels, Ports: ports, Node: fmt.Sprintf("node-%d", node),
		Addresses: addrs(fmt.Sprintf("10.244.%d.%d", node, host), fmt.Sprintf("fd00:10:244:%d::%d", node, host)),
	}
}

// onHost is a pod on its host's network, with the labels and the port that policies look for.
func onHost(path string, node int) policy.Pod {
	p := pod(path, node, 0, l{"app": "web", "role": "client"}, policy.NamedPort{Name: "http", Protocol: policy.TCP, Number: 80})
	p.HostNetwork, p.Addresses = true, addrs(fmt.Sprintf("192.0.2.%d", node), fmt.Sprintf("2001:db8::%d", node))
	return p
}

// namespace has the label that the API server gives it.
func namespace(name string, labels l) policy.Namespace {
	all := l{"kubernetes.io/metadata.name": name}
	for key, value := range labels {
		all[key] = value
	}
	return policy.Namespace{Name: name, Labels: all}
}

func addrs(list ...string) []netip.Addr {
	out := make([]netip.Addr, len(list))
	for i, s := range list {
		out[i] = netip.MustParseAddr(s)
	}
	return out
}
