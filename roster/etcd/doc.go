// Package etcd is a roster.Store in etcd 3.4 or later, for clusters whose nodes are machines.
//
//	store, err := etcd.New(etcd.Config{Endpoints: []string{"https://10.0.0.1:2379"}, TLS: tls})
//	...
//	defer store.Close()
//
// Below the prefix, /podweft as a rule, each node has two keys:
//
//	nodes/known/node-1    a roster.Node as JSON; it stays
//	nodes/alive/node-1    empty, and kept alive by an etcd lease; its create revision is the node's rank
//
// Nobody's clock counts but etcd's. TTLs have whole seconds, and etcd keeps none that is shorter than its election timeout. While
// etcd has no leader nobody dies. A heartbeat writes no key, so nobody hears of it.
//
// A user of etcd needs to read and write nodes/ below the prefix. The package runs no etcd.
package etcd
