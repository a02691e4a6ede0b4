package scenario

import "github.com/podweft/podweft/policy"

// changes is labels and policies that come, change and go.
func changes() []Scenario {
	clientPeer := web(rule(peers(podPeer(eq("role", "client")))))
	goes := func(kind policy.Kind, path string) []policy.ID {
		namespace, name := split(path)
		if kind == policy.KindNamespace {
			return []policy.ID{{Kind: kind, Name: name}}
		}
		return []policy.ID{{Kind: kind, Namespace: namespace, Name: name}}
	}
	other := func(labels l) policy.Model { return pods(pod("default/other", 2, 11, labels)) }
	ns := func(name string, labels l) policy.Model {
		return policy.Model{Namespaces: []policy.Namespace{namespace(name, labels)}}
	}
	return []Scenario{
		{Name: "a peer gets its label and loses it",
			Put:  policies(clientPeer),
			Deny: "other > web",
			Then: []Step{
				{Put: other(l{"role": "client"}), Allow: "other > web+web2"},
				{Put: other(l{"role": "server"}), Deny: "other > web"},
				{Put: other(nil), Deny: "other > web"}}},
		{Name: "a pod gets the label that isolates it and loses it",
			Put:   policies(np("p", eq("secure", "yes"))),
			Allow: "client > other",
			Then: []Step{
				{Put: other(l{"secure": "yes"}), Deny: "client+world > other"},
				{Put: other(l{"secure": "no"}), Allow: "client+world > other"}}},
		{Name: "a peer by NotIn gets the label",
			Put:   policies(web(rule(peers(podPeer(is("role", policy.NotIn, "bad")))))),
			Allow: "other > web",
			Then: []Step{
				{Put: other(l{"role": "bad"}), Deny: "other > web"},
				{Put: other(l{"role": "good"}), Allow: "other > web"}}},
		{Name: "a peer by Exists gets the label",
			Put:  policies(web(rule(peers(podPeer(is("flag", policy.Exists)))))),
			Deny: "other > web",
			Then: []Step{
				{Put: other(l{"flag": ""}), Allow: "other > web"},
				{Put: other(l{"flag": "x"}), Allow: "other > web"},
				{Put: other(nil), Deny: "other > web"}}},
		{Name: "a pod changes from one class to another",
			Put:   policies(web(on(tcp(80))), np("db", eq("app", "db"), on(tcp(5432)))),
			Allow: "client > other tcp/22",
			Then: []Step{
				{Put: other(l{"app": "web"}), Allow: "client > other tcp/80", Deny: "client > other tcp/5432+tcp/22"},
				{Put: other(l{"app": "db"}), Allow: "client > other tcp/5432", Deny: "client > other tcp/80+tcp/22"}}},
		{Name: "a namespace gets its label and loses it",
			Put:  policies(web(rule(peers(nsPeer(eq("team", "a")))))),
			Deny: "bare/pod > web",
			Then: []Step{
				{Put: ns("bare", l{"team": "a"}), Allow: "bare/pod > web", Deny: "test/client > web"},
				{Put: ns("bare", l{"team": "b"}), Deny: "bare/pod > web"},
				{Put: ns("bare", nil), Deny: "bare/pod > web"}}},
		{Name: "a namespace by DoesNotExist gets the label",
			Put:   policies(web(rule(peers(nsPeer(is("project", policy.DoesNotExist)))))),
			Allow: "bare/pod > web",
			Then:  []Step{{Put: ns("bare", l{"project": "x"}), Deny: "bare/pod > web", Allow: "client > web"}}},
		{Name: "a namespace's label with an AND peer",
			Put:  policies(web(rule(peers(bothPeer(eq("team", "a"), eq("role", "client")))))),
			Deny: "test/client+test/plain > web",
			Then: []Step{
				{Put: ns("test", l{"team": "a"}), Allow: "test/client > web", Deny: "test/plain > web"},
				{Put: pods(pod("test/plain", 2, 20, l{"role": "client"})), Allow: "test/client+test/plain > web"}}},
		{Name: "a namespace goes and comes back",
			Put:   policies(web(rule(peers(nsPeer(eq("project", "test")))))),
			Allow: "test/client > web",
			Then: []Step{
				{Gone: goes(policy.KindNamespace, "test"), Deny: "test/client > web"},
				{Put: ns("test", l{"project": "test"}), Allow: "test/client > web"}}},
		{Name: "a namespace comes after its pods and policies",
			Put: also(pods(pod("new/web", 1, 90, l{"app": "web"}), pod("new/client", 2, 90, l{"role": "client"})),
				policies(np("new/p", all(), rule(peers(nsPeer(eq("team", "new"))))))),
			Deny: "new/client > new/web",
			Then: []Step{{Put: ns("new", l{"team": "new"}), Allow: "new/client > new/web", Deny: "client > new/web"}}},
		{Name: "a policy comes and goes",
			Allow: "other > web",
			Then: []Step{
				{Put: policies(clientPeer), Allow: "client > web", Deny: "other > web"},
				{Gone: goes(policy.KindPolicy, "p"), Allow: "client+other > web"}}},
		{Name: "a policy gets another peer",
			Put:   policies(clientPeer),
			Allow: "client > web",
			Deny:  "test/client > web",
			Then: []Step{{Put: policies(web(rule(peers(nsPeer(eq("project", "test")))))),
				Allow: "test/client > web",
				Deny:  "client > web"}}},
		{Name: "a policy gets other ports",
			Put:   policies(web(on(tcp(80)))),
			Allow: "client > web tcp/80",
			Then: []Step{
				{Put: policies(web(on(udp(80)))), Allow: "client > web udp/80", Deny: "client > web tcp/80"},
				{Put: policies(web(on(called(policy.TCP, "http")))), Allow: "client > web2 tcp/8080", Deny: "client > web2 tcp/80"},
				{Put: policies(web(policy.Rule{})), Allow: "client > web tcp/1+udp/1"}}},
		{Name: "a policy gets another subject",
			Put:   policies(clientPeer),
			Allow: "client > other",
			Deny:  "other > web",
			Then:  []Step{{Put: policies(np("p", eq("role", "client"))), Allow: "other > web", Deny: "other > client"}}},
		{Name: "a policy gets other types",
			Put:   policies(web()),
			Allow: "web > client",
			Deny:  "client > web",
			Then: []Step{
				{Put: policies(typed(web(), policy.Egress)), Allow: "client > web", Deny: "web > client"},
				{Put: policies(typed(web(), policy.Ingress, policy.Egress)), Deny: "client > web, web > client"}}},
		{Name: "a policy gets a hole in its block",
			Put:   policies(web(rule(blocks("203.0.113.0/24")))),
			Allow: "203.0.113.7+203.0.113.77 > web",
			Then: []Step{
				{Put: policies(web(rule(peers(block("203.0.113.0/24", "203.0.113.64/26"))))), Allow: "203.0.113.7 > web", Deny: "203.0.113.77 > web"},
				{Put: policies(web(rule(blocks("203.0.113.0/24")))), Allow: "203.0.113.7+203.0.113.77 > web"}}},
		{Name: "the second of two policies goes",
			Put:   policies(web(on(tcp(80))), named("q", web(on(tcp(443))))),
			Allow: "client > web tcp/80+tcp/443",
			Then: []Step{
				{Gone: goes(policy.KindPolicy, "q"), Allow: "client > web tcp/80", Deny: "client > web tcp/443"},
				{Gone: goes(policy.KindPolicy, "p"), Allow: "client > web tcp/80+tcp/443+tcp/22"}}},
		{Name: "a peer that two policies share loses one of them",
			Put:   policies(clientPeer, np("q", eq("tier", "front"), rule(peers(podPeer(eq("role", "client")))))),
			Allow: "client > web",
			Then: []Step{
				{Gone: goes(policy.KindPolicy, "p"), Allow: "client > web, other > web2", Deny: "other > web"},
				{Put: other(l{"role": "client"}), Allow: "other > web"}}},
		{Name: "pods get a named port, and another number",
			Put:  policies(web(on(called(policy.TCP, "metrics")))),
			Deny: "client > web tcp/9090",
			Then: []Step{
				{Put: pods(pod("default/web", 1, 10, l{"app": "web"}, policy.NamedPort{Name: "metrics", Number: 9090})),
					Allow: "client > web tcp/9090", Deny: "client > web tcp/9091"},
				{Put: pods(pod("default/web", 1, 10, l{"app": "web"}, policy.NamedPort{Name: "metrics", Number: 9091})),
					Allow: "client > web tcp/9091", Deny: "client > web tcp/9090"}}},
		{Name: "a pod and its policy come at once",
			Put:   also(pods(pod("default/new", 2, 91, l{"app": "new"})), policies(np("q", eq("app", "new"), rule(peers(podPeer(eq("role", "client"))))))),
			Allow: "client > new",
			Deny:  "other > new"},
		{Name: "a pod moves to another node with its address",
			Put:   policies(web()),
			Allow: "node-1 > web",
			Then: []Step{{Put: pods(policy.Pod{Namespace: "default", Name: "web", Labels: l{"app": "web"}, Node: "node-2", Addresses: addrs("10.244.1.10")}),
				Allow: "node-2 > web v4",
				Deny:  "node-1 > web v4"}}},
		{Name: "everything goes but the pods",
			Put:  policies(np("p", all()), np("test/p", all())),
			Deny: "client > web+test/client",
			Then: []Step{{Gone: append(goes(policy.KindPolicy, "p"), goes(policy.KindPolicy, "test/p")...), Allow: "client > web+test/client"}}},
		{Name: "a label and a policy change at once",
			Put:  policies(clientPeer),
			Deny: "other > web",
			Then: []Step{{Put: also(other(l{"role": "new"}), policies(web(rule(peers(podPeer(eq("role", "new"))))))),
				Allow: "other > web",
				Deny:  "client > web"}}},
	}
}

// recipes is the examples of Kubernetes' documentation, and what people build of them.
func recipes() []Scenario {
	documented := policy.Policy{
		Namespace: "default", Name: "test-network-policy", Pods: eq("role", "db"),
		Types: []policy.Direction{policy.Ingress, policy.Egress},
		Ingress: []policy.Rule{rule(peers(block("172.17.0.0/16", "172.17.1.0/24"), nsPeer(eq("project", "test")), podPeer(eq("role", "client"))),
			tcp(6379))},
		Egress: []policy.Rule{rule(blocks("10.0.0.0/24"), tcp(5978))},
	}
	db := pods(pod("default/db", 2, 33, l{"role": "db"}))
	dns := policies(npOut("p", all(), rule(peers(bothPeer(nsName("bare"), eq("role", "client"))), udp(53), tcp(53))))
	return []Scenario{
		{Name: "documentation: the NetworkPolicy resource",
			Put:   also(policies(documented), db),
			Allow: "client+leaving+test/client+test/plain > db tcp/6379, 172.17.0.1+172.17.2.1+172.17.255.255 > db tcp/6379, db > 10.0.0.0+10.0.0.255 tcp/5978",
			Deny:  "client > db tcp/80, other+prod/api+world > db tcp/6379, 172.17.1.0+172.17.1.255+172.18.0.0 > db tcp/6379, db > 10.0.0.1 tcp/80, db > 10.0.1.0+192.0.2.7+10.244.1.11 tcp/5978"},
		{Name: "documentation: default deny all ingress",
			Put:   policies(typed(np("default-deny-ingress", all()), policy.Ingress)),
			Allow: "web > test/client+world",
			Deny:  "client+test/client+world > web+other"},
		{Name: "documentation: allow all ingress",
			Put:   policies(typed(np("deny", all()), policy.Ingress), typed(np("allow-all-ingress", all(), policy.Rule{}), policy.Ingress)),
			Allow: "client+test/client+world > web+other tcp/80+udp/53+icmp"},
		{Name: "documentation: default deny all egress",
			Put:   policies(npOut("default-deny-egress", all())),
			Allow: "test/client+world > web",
			Deny:  "client+web > other+test/client+world"},
		{Name: "documentation: allow all egress",
			Put:   policies(npOut("deny", all()), npOut("allow-all-egress", all(), policy.Rule{})),
			Allow: "client+web > other+test/client+world tcp/80+udp/53+icmp"},
		{Name: "documentation: default deny all ingress and all egress",
			Put:  policies(typed(np("default-deny-all", all()), policy.Ingress, policy.Egress)),
			Deny: "client > web+world+test/client, world+test/client > client"},
		{Name: "documentation: a range of ports",
			Put: policies(npOut("multi-port-egress", eq("role", "client"), policy.Rule{
				Peers: blocks("10.0.0.0/24"), Ports: []policy.Port{upTo(tcp(32000), 32768)}})),
			Allow: "client > 10.0.0.7 tcp/32000+tcp/32500+tcp/32768",
			Deny:  "client > 10.0.0.7 tcp/31999+tcp/32769+udp/32500, client > 10.0.1.7 tcp/32500"},
		{Name: "documentation: several namespaces by their label",
			Put: policies(npOut("egress-namespaces", eq("role", "client"), policy.Rule{
				Peers: peers(nsPeer(is("project", policy.In, "test", "prod")))})),
			Allow: "client > test/client+test/plain+prod/db+prod/api",
			Deny:  "client > web+bare/pod+world"},
		{Name: "documentation: a namespace by its name",
			Put:   policies(out(rule(peers(nsPeer(nsName("prod")))))),
			Allow: "client > prod/db+prod/api",
			Deny:  "client > test/client+web+world"},
		{Name: "only DNS goes out",
			Put:   dns,
			Allow: "web+client > bare/pod udp/53+tcp/53",
			Deny:  "web+client > bare/pod tcp/80, web > world udp/53, web > client udp/53"},
		{Name: "only DNS goes out, and the server may answer by itself",
			Put:   also(dns, policies(npOut("bare/p", all()))),
			Allow: "web > bare/pod udp/53",
			Deny:  "bare/pod > web udp/53"},
		{Name: "a database that only its application reaches",
			Put:   policies(np("prod/db", eq("app", "db"), rule(peers(podPeer(eq("app", "api"))), called(policy.TCP, "sql")))),
			Allow: "prod/api > prod/db tcp/5432",
			Deny:  "prod/api > prod/db tcp/80, client+web+test/client > prod/db tcp/5432"},
		{Name: "monitoring from one namespace into all",
			Put: policies(np("default/mon", all(), rule(peers(nsPeer(eq("project", "test"))), tcp(9090))), np("prod/mon", all(), rule(peers(nsPeer(eq("project", "test"))), tcp(9090))),
				np("bare/mon", all(), rule(peers(nsPeer(eq("project", "test"))), tcp(9090)))),
			Allow: "test/plain > web+prod/db+bare/pod tcp/9090",
			Deny:  "test/plain > web+prod/db+bare/pod tcp/80, client > web+prod/db tcp/9090"},
		{Name: "tutorial: one pod by its label",
			Put:   policies(web(rule(peers(podPeer(eq("role", "test"))), tcp(80)))),
			Allow: "node-1 > web",
			Deny:  "client+other+test/client > web",
			Then:  []Step{{Put: pods(pod("default/client", 1, 11, l{"role": "test"})), Allow: "client > web+web2", Deny: "other > web, client > web tcp/443"}}},
		{Name: "tutorial: a namespace or a pod",
			Put:   policies(web(rule(peers(nsPeer(eq("project", "test")), podPeer(eq("role", "test"))), tcp(80)))),
			Allow: "test/client+test/plain > web",
			Deny:  "client+other+bare/pod > web",
			Then:  []Step{{Put: pods(pod("default/client", 1, 11, l{"role": "test"})), Allow: "client+test/plain > web", Deny: "other > web"}}},
		{Name: "tutorial: a namespace and a pod",
			Put:  policies(web(rule(peers(bothPeer(eq("project", "test"), eq("role", "test"))), tcp(80)))),
			Deny: "test/client+test/plain+client > web",
			Then: []Step{
				{Put: pods(pod("default/client", 1, 11, l{"role": "test"})), Deny: "client+test/client > web"},
				{Put: pods(pod("test/client", 1, 20, l{"role": "test"})), Allow: "test/client > web", Deny: "client+test/plain > web"}}},
		{Name: "tutorial: a block, or a namespace and a pod",
			Put:   policies(web(rule(peers(block("192.168.56.0/24"), bothPeer(eq("project", "myproject"), eq("role", "frontend"))), tcp(80)))),
			Allow: "192.168.56.1+192.168.56.255 > web",
			Deny:  "192.168.55.255+192.168.57.0 > web, 192.168.56.1 > web tcp/443, bare/pod+client > web",
			Then: []Step{
				{Put: policy.Model{Namespaces: []policy.Namespace{namespace("bare", l{"project": "myproject"})}}, Deny: "bare/pod > web"},
				{Put: pods(pod("bare/pod", 2, 40, l{"role": "frontend"})), Allow: "bare/pod > web", Deny: "client > web"}}},
	}
}
