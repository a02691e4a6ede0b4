package cniplugin_test

import (
	"context"
	"os"
	"strings"

	"github.com/podweft/podweft/cniplugin"
)

// A runtime asks whether pods can be attached. Before the node has its lease they cannot, and the answer says what to do.
func ExampleRun() {
	cniplugin.Run(context.Background(), cniplugin.Config{StateDir: os.TempDir()}, cniplugin.Call{
		Type:    "flannel",
		Environ: []string{"CNI_COMMAND=STATUS"},
		Stdin:   strings.NewReader(`{"cniVersion": "1.1.0", "name": "cbr0", "type": "flannel", "subnetFile": "/nowhere/subnet.env"}`),
		Stdout:  os.Stdout,
	})
	// Output:
	// {
	//     "cniVersion": "1.1.0",
	//     "code": 50,
	//     "msg": "no subnet lease yet: is podweft-flannel running? looked for /nowhere/subnet.env"
	// }
}
