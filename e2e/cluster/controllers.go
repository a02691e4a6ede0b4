package cluster

import (
	"context"
	"crypto/tls"
	"net/http"
)

// Where pods and Services have their addresses.
const (
	podNetwork4     = "10.244.0.0/16"
	podNetwork6     = "fd00:10:244::/56"
	serviceNetwork4 = "10.96.0.0/16"
	serviceNetwork6 = "fd00:10:96::/112"
)

// ranges are those of a cluster, with a comma between two families.
type ranges struct{ pods, services string }

const (
	controllerManager = "kube-controller-manager"
	scheduler         = "kube-scheduler"
)

// StartControllers runs the controllers and the scheduler, which then do what tests play otherwise. Nodes get a /24 each of 10.244.0.0/16,
// and in a cluster of both families a /64 of fd00:10:244::/56.
func (c *Cluster) StartControllers() {
	c.t.Helper()
	c.startController(controllerManager, "https://127.0.0.1:10257/healthz", "--root-ca-file", c.CAFile(),
		"--service-account-private-key-file", c.path("accounts.pem"),
		"--use-service-account-credentials", // each controller has its own rights, and together they have none
		"--allocate-node-cidrs", "--cluster-cidr", c.ranges.pods, "--service-cluster-ip-range", c.ranges.services)
	c.startController(scheduler, "https://127.0.0.1:10259/healthz")
}

func (c *Cluster) startController(name, health string, args ...string) {
	c.t.Helper()
	p := c.process(Program(), append([]string{
		name, "--kubeconfig", c.Kubeconfig(Token("system:" + name)), "--leader-elect=false", "--bind-address", "127.0.0.1", "--profiling=false",
	}, args...)...)
	p.start()
	c.t.Cleanup(func() {
		if c.t.Failed() {
			c.t.Logf("%s: %s", name, p.log)
		}
	})
	// Its certificate is its own, and nothing is told to it.
	client := &http.Client{Transport: &http.Transport{
		DialContext: c.dial, DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}}
	c.await(name, p, func(ctx context.Context) error { return c.get(ctx, client, health) })
}
