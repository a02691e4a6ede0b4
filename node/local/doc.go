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
// Where a pod must not start before the agent has done its part, the plugin asks it through a socket: a [Client] on the
// plugin's side, a [Server] with a [Handler] on the agent's. Each waits for the other no longer than it likes, each answers
// root and its own user only, and whatever goes wrong in between is one of a few errors: [ErrNoAgent], [ErrTryAgain].
//
//	err = local.NewClient("/run/podweft/agent.sock").Attach(ctx, record) // the plugin: nil when policy is in force
//
// The socket tells the agent at once, the records tell it always: an agent that was away learns from them what it missed, so
// a plugin that finds nobody to tell about a pod's end may leave it at that.
//
// The protocol is one line of JSON for each message, with a version; the request under way is called off when its
// connection closes. To see it: echo '{"version":1,"verb":"status"}' | nc -U -q1 /run/podweft/agent.sock
//
// Both processes may run without the other. The package starts nobody, gives out no address of its own accord, and touches
// no network but the socket.
package local
