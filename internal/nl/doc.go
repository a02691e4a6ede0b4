// Package nl speaks rtnetlink in netip types: it lists and changes links, addresses, neighbours, forwarding entries (FDB),
// nexthop objects and routes of one network namespace, and listens for their changes.
//
// Links and addresses, of which there are few, go through vishvananda/netlink. Tables with thousands of entries go through
// one socket of mdlayher/netlink in pipelined batches: many requests per system call, each failure matched by its
// sequence number to the request that caused it. Dumps that the kernel says it could not finish consistently are read again and
// in the end are an error: a partial list must never be taken for a deletion. It does not always say so; see Conn.dump.
//
// The package decides nothing: what should be there is its callers' business.
package nl
