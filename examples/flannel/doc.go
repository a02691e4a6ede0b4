// Package flannel is a node's daemon for a pod network as flannel makes it, from this SDK's parts: flanneld's flags and
// environment, its keys in etcd, its net-conf.json and its subnet.env, so that a user can put one in the other's place.
//
//	podweft-flannel --etcd-endpoints=http://10.0.0.1:2379 --ip-masq
//
// The command is [Main]. It also runs an etcd of its own (--etcd-listen), shows what a start would change (plan), removes what
// it made (cleanup) and writes Docker's options (docker-opts).
//
// What makes pods is not here: that is a CNI plugin's work, which reads subnet.env.
package flannel
