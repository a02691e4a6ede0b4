// Package ipam answers one question: which address does this pod get? It gives out the addresses of one node's prefixes and
// remembers who holds them, in one file that any number of processes (a CNI plugin started for each pod, a node's agent)
// use at once.
//
//	pool, err := ipam.Open(ipam.Config{Path: "/run/podweft/ipam", Prefixes: lease.Prefixes})
//	...
//	held, err := pool.Allocate(ctx, ipam.Owner{Network: "pods", Container: id, Interface: "eth0"})
//	...
//	err = pool.Release(ctx, held.Owner)
//
// An owner gets one address from each set of ranges (with Config.Prefixes: one from each prefix, so two on a dual-stack
// node), all of them or none, and the same ones when it asks again. The network's and the broadcast address of IPv4, the
// subnet-router anycast address of IPv6 (RFC 4291, 2.6.1), gateways and Config.Reserved are never given out. Addresses
// rotate: the next is looked for behind the last one given, so that one just released is hardly ever given at once;
// Config.Grace makes a promise of it.
//
// # What is promised
//
// A process may die at any instant, by kill -9 or for want of memory: each call has then happened as a whole or not at
// all, and a call that returned without an error has happened. Nobody else needs to notice or repair anything; the next
// call, in whatever process, first completes what the dead one had decided.
//
// The kernel may die (power loss, panic, reboot): every allocation is then void, since the pods are gone too. The file
// carries the boot's ID, and a file of another boot counts as empty. That is why a call waits for no disk, with one
// exception: the first allocation of a boot, or after a change of ranges, makes a new file and waits until it is written.
//
// A file that somebody damaged is not guessed at: every block of it carries a checksum, calls that meet a bad one return
// [ErrDamaged], and no address is given out twice because of it. What no checksum can show is an older copy of the same
// file of the same boot, put back in place: do not restore this file from a backup.
//
// # Coming from host-local
//
// [Pool.ImportHostLocal] takes over what the reference plugin host-local has given out, so that a node can change its CNI
// plugin while pods run.
//
// # What it costs
//
// Each call reads and writes a handful of 512-byte blocks, however many addresses are taken, and so does the first call of
// a new process: nothing is loaded or replayed. Exceptions, which read every allocation (about 1 us for each, so
// 0.1 ms for 100 and 60 ms for 60,000) while others wait: [Pool.All], [Pool.Collect], [Pool.InUse], the first allocation
// after the ranges changed, which also writes them, and asking by name for an address that is not free.
// The price is a window: a set gives out at most 65,536 addresses, the first ones of its ranges. Asked for by name, an
// address beyond the window (far up in an IPv6 /64) is given too.
//
// The file must lie on a local file system of one kernel, where flock(2) works. /run is the best place: it is memory, so
// that calls are faster and the file goes with the boot.
//
// This package touches no network: it puts no address on an interface, and does not know whether somebody who never asked
// it uses one. It knows one node's prefixes; which node has which prefix is the business of packages subnet and ipam/block.
package ipam
