package cluster

import (
	"fmt"
	"os"
	"strings"

	"github.com/stretchr/testify/require"
)

// workers are the names that whole nodes may have: their kubelets are known to the API server.
var workers = [...]string{"worker-1", "worker-2", "worker-3"}

const admin = "admin"

// Token is the token of a user that is no service account: of a component, or of a worker's kubelet, as system:node:worker-1.
func Token(user string) string { return "token-of-" + strings.ReplaceAll(user, ":", "-") }

// writeUsers writes who the users are. What each may do is the authorizers' to say.
func (c *Cluster) writeUsers() {
	c.t.Helper()
	var text strings.Builder
	add := func(user, group string) { fmt.Fprintf(&text, "%s,%s,%s,%q\n", Token(user), user, user, group) }
	add(admin, "system:masters")
	for _, component := range []string{controllerManager, scheduler, "kube-proxy"} {
		add("system:"+component, "")
	}
	for _, name := range workers {
		add("system:node:"+name, "system:nodes")
	}
	require.NoError(c.t, os.WriteFile(c.path("tokens.csv"), []byte(text.String()), 0o600))
}
