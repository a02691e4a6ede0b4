// Package etcd is a subnet.Store in etcd 3.4 or later, in the layout of flannel's: its nodes and ours lease from one prefix and
// reach each other.
//
//	store, err := etcd.New(etcd.Config{Endpoints: []string{"https://10.0.0.1:2379"}, TLS: tls})
//	...
//	defer store.Close()
//
// Below the prefix, /coreos.com/network as a rule, are
//
//	config                                    net-conf.json, which an operator writes
//	subnets/10.244.3.0-24                     a lease: one key, kept alive by an etcd lease
//	subnets/10.244.3.0-24&fd00:244:0:3::-64   the same in both families
//	subnets/0.0.0.0-0&fd00:244:0:3::-64       the same with IPv6 alone
//	subnets/10.244.9.0-24                     a reservation, if no etcd lease keeps it alive
//	subnets/leased/10.244.9.0-24              a lease taken from that reservation
//	claims/...                                what makes claims of our nodes exclude each other; flannel does not look there
//
// A value is flannel's, field by field in its order, and after them Node, which flannel skips: our leases belong to a name. A
// lease without it belongs to its PublicIP, as all of flannel's do, and a node of ours that has this address takes it over as
// its own: so a node changes from flannel to us and keeps its subnet.
//
// Rules that are special to this Store:
//
//   - A listing is one consistent range, in pages of 5,000 keys; no lease costs a request of its own. A watch goes on from the
//     listing's revision. It rides out lost connections, and ends with an error when etcd has compacted what it missed.
//   - A claim is one transaction. It names what it rests on (the configuration, the node's own lease, both families' subnets)
//     and changes nothing if any of it has moved. A flannel node that claims the same IPv6 subnet beside another IPv4 subnet
//     cannot be kept from it, but it is seen, and ours gives way if it came second.
//   - Nobody's clock counts but etcd's. TTLs have whole seconds, and etcd keeps none that is shorter than its election timeout.
//   - A renewal, ours or flannel's, changes nothing that a Snapshot shows.
//
// A user of etcd needs to read and write the prefix. Where even that is to be divided, nodes need no write access to config.
//
// The package runs no etcd and configures no network: that is done with etcdctl, as for flannel.
package etcd
