// Package testnet builds networks of many machines on one, for tests and for programs that show or measure something: each
// [Node] is a network namespace, and a [Fabric] is a row of them on a switch. It needs no root: [Main] (for tests) and
// [Enter] (for programs) re-execute the process in a user namespace of its own, where it may create links, routes,
// firewalls and sysctls, and where everything it made is gone when it ends, however it ends. The host's network is never
// touched.
//
//	func TestMain(m *testing.M) { testnet.Main(m) }
//
//	func TestReach(t *testing.T) {
//		f := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 3})
//		rtt, err := f.Nodes[0].Ping(t.Context(), f.Nodes[2].V6)
//		...
//	}
//
// What else a test needs of a network is here too: [Pinger] (thousands of echoes in flight, no `ping` binary), [Capture]
// (what passes a link), links that go down and up, programs that run inside a node. Whatever a test leaves behind in a node
// (a goroutine, a socket, a process, a mount) fails that test.
//
// Where the machine forbids namespaces, [Enter] says so with a [*RefusedError], one sentence that names the setting and the
// remedy, and tests skip with it; with PODWEFT_REQUIRE_KERNEL=1 in the environment they fail instead.
//
// The package does not isolate files, users or time, does not shape traffic (no delay, no loss), and knows nothing of pods:
// those are what is tested on it.
package testnet
