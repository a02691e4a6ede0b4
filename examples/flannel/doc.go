// Package flannel is a node's daemon for a pod network as flannel makes it, from this SDK's parts: flanneld's flags and
// their environment, its keys in etcd or annotations in Kubernetes, its net-conf.json and its subnet.env. A cluster can have nodes of
// both.
//
//	podweft-flannel --etcd-endpoints=http://10.0.0.1:2379 --ip-masq
//
// The command is [Main]. It also runs an etcd of its own (--etcd-listen), shows what a start would change (plan), removes what
// it made (cleanup) and writes Docker's options (docker-opts).
//
// What --etcd-listen serves is open to whoever reaches it, unless its URL is https and --etcd-listen-certfile and -keyfile say what it
// shows, and --etcd-listen-cafile whom it serves; --etcd-peer-cafile, -certfile and -keyfile do the same among three members. A node
// behind a NAT gives the address that others send to as --public-ip; with host-gw there can be none.
//
// Leases are in etcd, in an etcd of its own, or in Kubernetes (--kube-subnet-mgr); deploy has a manifest and an image.
//
// It has the backends vxlan, host-gw, ipip and udp. Put in flanneld's place on a node, it goes on with the
// node's subnet and takes over in place what flanneld left: links, routes, and iptables' chains, last (--adopt-flannel). Where the
// host's firewall forwards nothing, as with Docker, it lets pods' packets pass (--iptables-forward-rules).
//
// What makes pods is not here: that is a CNI plugin's work, which reads subnet.env. Podweft's works alone where no daemon runs. Where
// one does, and both see the plugin's state (--cni-state-dir), the daemon waits for the kernel in its stead when pods go, and puts host
// ports and masquerading back that somebody has removed (cniplugin.Agent). In a container that takes a mount of /run/podweft, which
// flannel's own manifest does not have.
package flannel
