// Package local is what the two processes of one node say to each other: the plugin that is started for each pod, and the
// agent that stays.
//
// They share [Records]: one small file for each attachment, which the plugin writes when it makes a pod's port and removes
// when the pod goes. The agent reads them and so knows, also after it was started anew, which ports, host ports and policies
// belong to live pods:
//
//	records, err := local.Open("/run/podweft/attachments", "")
//	...
//	err = records.Put(local.Record{Network: "cbr0", Container: id, Interface: "eth0", ...}) // the plugin
//	...
//	all, problems, err := records.All("cbr0") // the agent
//
// A record is replaced as a whole, so that a reader never sees half of one, whenever its writer is killed. It carries the
// ID of the boot in which it was written, and one of an earlier boot counts as none: the pod is gone. So no call waits for
// a disk.
//
// Both may run without the other: the package starts nobody, and it touches no network.
package local
