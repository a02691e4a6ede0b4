package netpol_test

import (
	"fmt"
	"net/netip"

	"github.com/podweft/podweft/kube/netpol"
	"github.com/podweft/podweft/policy"
)

// Would the client reach the web server? From the text of the objects, without a cluster.
func Example() {
	objects := `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
    - from: [{namespaceSelector: {matchLabels: {team: shop}}}]
      ports: [{port: http}]
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: shop}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: web, ports: [{name: http, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.244.1.10}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
status: {podIPs: [{ip: 10.244.2.11}]}
`
	model, err := netpol.Decode(netpol.File{Name: "objects.yaml", Data: []byte(objects)})
	if err != nil {
		fmt.Println(err)
		return
	}
	rules, err := policy.Compile(model)
	if err != nil {
		fmt.Println(err)
		return
	}
	packet := policy.Packet{Src: netip.MustParseAddr("10.244.2.11"), Dst: netip.MustParseAddr("10.244.1.10"), Protocol: policy.TCP, Port: 8080}
	fmt.Print(rules.Explain(packet))
	packet.Port = 80
	fmt.Print(rules.Explain(packet))
	// Output:
	// 10.244.2.11 -> 10.244.1.10 TCP 8080: allowed
	//   egress  pod shop/client: no policy speaks of it
	//   ingress pod default/web: allowed by policy default/web, ingress[0].from[0], all pods in namespaces team=shop
	// 10.244.2.11 -> 10.244.1.10 TCP 80: denied
	//   egress  pod shop/client: no policy speaks of it
	//   ingress pod default/web: isolated by policy default/web, and nothing there allows it
	//   policy default/web, ingress[0]: allows the source, but only on: TCP port "http"
}
