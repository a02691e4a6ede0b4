// Package etcd is a block.Store in etcd 3.4 or later, for clusters whose nodes are machines.
//
//	store, err := etcd.New(etcd.Config{Endpoints: []string{"https://10.0.0.1:2379"}, TLS: tls})
//	...
//	defer store.Close()
//
// Below the prefix, /podweft as a rule, each block is one key. Its name is the block's first address and its length, written so
// that keys are in the order of addresses; its value is a block.Block as JSON:
//
//	blocks/ipv4/010.244.003.064-026
//	blocks/ipv6/fd00:0244:0000:0000:0000:0000:0000:0040-122
//
// A change is one transaction that names the key's revision. One that makes a block also names every key that would overlap
// it: the range of those inside it, and for each address at which a longer block could begin the range of those that reach it.
// So no two blocks overlap whatever lengths nodes are configured with, and nodes that make different blocks do not meet.
//
// Nothing here expires: a block stays its node's whether that lives or not, until somebody takes it back with block.Collect.
//
// What somebody wrote there by hand and is no block fails the calls that meet it, with an error that names the key.
//
// A user of etcd needs to read and write blocks/ below the prefix. The package runs no etcd.
package etcd
