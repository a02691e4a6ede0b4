// Package nft speaks nf_tables over netlink: it changes tables, chains, rules, sets and maps in transactions, reads them
// back and listens for changes, without running any program.
//
// A [Conn] is one lasting socket in one network namespace. It lasts because closing a netfilter socket that has deleted
// something waits some 10 ms for the kernel, while a transaction on an open one takes a fraction of one. A [Batch] lists
// what a transaction does; Commit sends it whole, and when the kernel refuses it, the error names each object that was at
// fault. Sets hold thousands of elements, so Load sends a long batch as several transactions.
//
// Rules are made of the expressions of github.com/google/nftables/expr; its Conn is not used, since it hides which object
// failed. The package decides nothing and keeps no copy of what is in the kernel: that is its callers' business.
package nft
